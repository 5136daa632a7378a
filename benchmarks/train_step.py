"""One optimiser step (forward, backward, clipping, update) of both arms, our way and the paper's, on the same rows."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import torch

from arche_mdlm.compiling_mdlm import compile_layers
from arche_mdlm.configuration.settings import ModelSettings, Preset
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.training.batches.batching import label_positions
from arche_mdlm.training.loop.optimizers import build_optimizers
from arche_mdlm.training.models.arms import DIFFUSION, arm_of
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.fused_head import fuse_head, next_tokens
from benchmarks import naive
from benchmarks.timing import interleave


@dataclass(frozen=True)
class Shape:
    """What is trained: a preset's two arms at this batch and canvas, in a layout of rows.

    `layout`: "full", every position a token, as in the paper's windows and our packed rows; "stories", their lengths spread as
    TinyStories' are: a tail of pads is supervised in the MDLM arm (docs/formulas.md, The canvas) and cut off in the AR arm.
    """

    mdlm: Preset
    ar: Preset
    batch_size: int
    length: int
    layout: str = "full"

    def settings(self, arm: str) -> ModelSettings:
        return (self.mdlm if arm == "mdlm" else self.ar).model


@dataclass(frozen=True)
class Batch:
    """The same rows for all: random tokens."""

    clean: torch.Tensor  # (B, L)
    mdlm_inputs: dict[str, torch.Tensor]
    mdlm_denominator: int
    ar_inputs: dict[str, torch.Tensor]
    ar_denominator: int
    num_tokens: int  # real ones, BOS not counted: the unit of all rates


def make_batch(model_config, batch_size: int, length: int, device, layout: str = "stories", seed: int = 0) -> Batch:
    """Rows begun by token 0 and padded by token 1, corrupted by the masked-mean objective; `layout` as in `Shape`."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.full((batch_size,), length)
    if layout == "stories":
        lengths = (length * (0.75 + 0.15 * torch.randn(batch_size, generator=generator))).long().clamp(4, length)
    real = torch.arange(length) < lengths[:, None]
    last = model_config.vocab_size - 2  # the mask is the last token
    clean = torch.randint(2, last, (batch_size, length), generator=generator).masked_fill(~real, 1)
    clean[:, 0] = 0
    maskable = torch.ones_like(real)
    maskable[:, 0] = False
    corrupted = family_of(model_config).corrupt(clean, maskable, "masked_mean", generator)
    num_tokens = int(lengths.sum()) - batch_size
    longest = int(lengths.max())
    labels = clean.masked_fill(~(real & maskable), -100)[:, :longest]
    return Batch(
        clean=clean.to(device),
        mdlm_inputs={name: value.to(device) for name, value in corrupted.inputs().items()},
        mdlm_denominator=DIFFUSION.loss_denominator("masked_mean", num_tokens, corrupted.labels != -100),
        ar_inputs={"input_ids": clean[:, :longest].to(device), "labels": labels.to(device)},
        ar_denominator=num_tokens,
        num_tokens=num_tokens,
    )


def our_loss(model, inputs: dict, denominator: int) -> torch.Tensor:
    """As `training.loop.Trainer` computes it."""
    extra = arm_of(model).loss_arguments
    one = torch.ones((), device=model.device)
    return model(**inputs, **extra, num_items_in_batch=one).loss / denominator


def make_step(model, loss: Callable[[], torch.Tensor], optimizer, autocast) -> Callable[[], None]:
    def step() -> None:
        with autocast():
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def autocast_of(dtype: str, device: torch.device):
    """`float32`: none."""
    return nullcontext if dtype == "float32" else lambda: torch.autocast(device.type, dtype=getattr(torch, dtype))


def our_step(
    shape: Shape, arm: str, dtype: str, device: torch.device, compiled: bool = False, **options
) -> tuple[Callable[[], None], int]:
    """(step, tokens a step) of an arm, our way; `compiled` as `training.compile` has it, with `options` of `torch.compile`."""
    model, batch = _setup(shape, arm, device)
    if arm == "ar":
        fuse_head(model)
    (optimizer,) = build_optimizers(model, (shape.mdlm if arm == "mdlm" else shape.ar).training)
    inputs, denominator = _of(batch, arm)
    if compiled:
        labels = inputs["labels"] if arm == "mdlm" else next_tokens(inputs["labels"])
        inputs = inputs | {"positions": label_positions(labels != -100)}
        compile_layers(model, **options)
    step = make_step(model, lambda: our_loss(model, inputs, denominator), optimizer, autocast_of(dtype, device))
    return step, batch.num_tokens


def paper_step(shape: Shape, arm: str, device: torch.device) -> tuple[Callable[[], None], int]:
    """(step, tokens a step) of an arm, the paper's way: float32, full logits, plain AdamW."""
    model, batch = _setup(shape, arm, device)
    if arm == "mdlm":
        corrupted = batch.mdlm_inputs

        def loss() -> torch.Tensor:
            return naive.masked_mean_loss(model, corrupted["input_ids"], batch.clean, corrupted["timesteps"])
    else:

        def loss() -> torch.Tensor:
            return naive.next_token_loss(model, **batch.ar_inputs)

    optimizer = naive.plain_adamw(model, 3e-4)
    return make_step(model, loss, optimizer, nullcontext), batch.num_tokens


def transformers_step(shape: Shape, dtype: str, device: torch.device) -> tuple[Callable[[], None], int]:
    """(step, tokens a step) of stock LlamaForCausalLM with its own loss and the optimiser that Trainer uses."""
    model, batch = _setup(shape, "ar", device)
    (optimizer,) = build_optimizers(model, shape.ar.training)
    loss = lambda: model(**batch.ar_inputs, use_cache=False).loss  # noqa: E731
    return make_step(model, loss, optimizer, autocast_of(dtype, device)), batch.num_tokens


def fastest_dtype(shape: Shape, device: torch.device) -> tuple[str, dict[str, float]]:
    """The faster of float32 and bfloat16 autocast for our MDLM step, and the seconds a step that say so."""
    steps = {dtype: our_step(shape, "mdlm", dtype, device)[0] for dtype in ("float32", "bfloat16")}
    seconds = {dtype: median(times) for dtype, times in interleave(steps, 3, device).items()}
    return min(seconds, key=seconds.get), seconds


def _setup(shape: Shape, arm: str, device: torch.device):
    torch.manual_seed(0)
    mdlm_config = build_config(shape)
    model = build_model(shape.settings(arm)).to(device).train()
    return model, make_batch(mdlm_config, shape.batch_size, shape.length, device, shape.layout)


def build_config(shape: Shape):
    from arche_mdlm import MDLMConfig

    values = shape.mdlm.model.config
    return MDLMConfig(mask_token_id=values["vocab_size"] - 1, **values)


def _of(batch: Batch, arm: str) -> tuple[dict, int]:
    if arm == "mdlm":
        return batch.mdlm_inputs, batch.mdlm_denominator
    return batch.ar_inputs, batch.ar_denominator
