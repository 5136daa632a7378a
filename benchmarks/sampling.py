"""Unprompted texts a second: our ancestral sampler on a batch, and the paper's loop, one text at a time."""

from collections.abc import Callable

import torch

from arche_mdlm.configuration.presets import ModelSettings
from arche_mdlm.training.build import build_model
from benchmarks import naive


def samplers(
    settings: ModelSettings, length: int, steps: int, batch_size: int, device: torch.device
) -> dict[str, tuple[Callable[[], None], int]]:
    """(call, texts a call) of `ours` and `paper`; random weights, canvases of `length` tokens, BOS counted.

    Nothing ends a text early: with a trained model ours also stops at its end of text, the paper's does not.
    """
    torch.manual_seed(0)
    model = build_model(settings).to(device).eval()
    # Random weights know no end of text: an EOS drawn by chance must not shorten anything.
    model.generation_config.eos_token_id = None
    prompts = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
    generator = torch.Generator().manual_seed(0)
    on_device = torch.Generator(device).manual_seed(0)

    def ours() -> None:
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=length - 1,
            sampler="ancestral",
            num_diffusion_steps=steps,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            generator=generator,
        )

    def paper() -> None:
        naive.sample(model, [0], length, steps, generator=on_device)

    return {"ours": (ours, batch_size), "paper": (paper, 1)}
