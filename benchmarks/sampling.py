"""Unprompted texts a second: our samplers on a batch, the paper's loop, one text at a time, and AR with its KV cache."""

from collections.abc import Callable

import torch
from transformers import CompileConfig

from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.training.models.build import build_model
from benchmarks import naive

Contestant = tuple[Callable[[], None], int]  # a call, and how many texts it writes


def random_model(settings: ModelSettings, device: torch.device):
    """Suppress EOS: random weights would draw it at random positions and shorten texts."""
    torch.manual_seed(0)
    model = build_model(settings).to(device).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def ours(model, sampler: str, length: int, steps: int, batch_size: int, compiled: bool = False) -> Contestant:
    """A batch of canvases of `length` tokens, BOS counted; `compiled` compiles the model's layers."""
    generator = torch.Generator().manual_seed(0)
    options = {"sampler": sampler, "num_diffusion_steps": steps, "generator": generator}
    if compiled:
        options["compile_config"] = CompileConfig(mode="default")
    return _generate(model, length, batch_size, options), batch_size


def paper(model, length: int, steps: int) -> Contestant:
    """The released sampling loop on the same weights. With a trained model ours also stops at its end of text; this never."""
    generator = torch.Generator(model.device).manual_seed(0)
    return lambda: naive.sample(model, [0], length, steps, generator=generator), 1


def autoregressive(model, length: int, batch_size: int) -> Contestant:
    """transformers' own `generate` with its KV cache."""
    return _generate(model, length, batch_size, {"use_cache": True}), batch_size


def _generate(model, length: int, batch_size: int, options: dict) -> Callable[[], None]:
    prompts = torch.zeros(batch_size, 1, dtype=torch.long, device=model.device)
    options = options | {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": length - 1}
    return lambda: model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
