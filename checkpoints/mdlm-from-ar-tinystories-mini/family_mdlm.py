"""The families of diffusion: a corruption and an order each, found by a model's `config.diffusion`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .configuration_mdlm import MDLMConfig
from .corruption_mdlm import Corruption, Masked, Uniform
from .esoteric_mdlm import Esoteric
from .family_parts_mdlm import FAMILY_PARTS
from .order_mdlm import Blocks, Corrupted, Draws, Order, Whole
from .schedule_mdlm import NoiseSchedule, get_schedule


@dataclass(frozen=True)
class Family:
    """What model, training, likelihood and sampling ask, whichever family they have."""

    corruption: Corruption
    order: Order
    schedule: NoiseSchedule

    def corrupt(
        self,
        tokens: torch.Tensor,
        open: torch.Tensor,
        objective: str,
        generator: torch.Generator,
        stratified: bool = True,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> Corrupted:
        """A training batch of clean rows (B, L), corrupted where `open` (B, L) is True; see `Order.lay_out`."""
        return self.order.lay_out(
            tokens, open, self.corruption, self.schedule, objective, generator, stratified, window
        )

    def bound_draws(
        self,
        tokens: torch.Tensor,
        scored: torch.Tensor,
        attended: torch.Tensor,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        """Draws of the bound of one row (L,), at the positions where `scored` (L,) is True; see `Order.bound_draws`."""
        return self.order.bound_draws(tokens, scored, attended, self.corruption, num_samples, antithetic, generator)


def _num_tokens(config: MDLMConfig) -> int:
    """V, how many tokens can occur: those of the head but the mask."""
    width = config.output_vocab_size or config.vocab_size
    return width - (config.mask_token_id < width)


def _masked(config: MDLMConfig) -> Corruption:
    # A checkpoint that brings its own, older code has no such field.
    scores = getattr(config, "parameterization", "subs") == "score"
    return Masked(config.mask_token_id, _num_tokens(config) if scores else None)


def _uniform(config: MDLMConfig) -> Corruption:
    return Uniform(_num_tokens(config), config.mask_token_id, config.denoiser == "full")


def _whole(config: MDLMConfig) -> Order:
    return Whole()


def _blocks(config: MDLMConfig) -> Order:
    return Blocks(int(config.attention_block_length))  # type: ignore[arg-type]  # the configuration has checked it


def _esoteric(config: MDLMConfig) -> Order:
    return Esoteric(config.alpha_0)


# By the names in `FAMILY_PARTS`.
CORRUPTIONS: dict[str, Callable[[MDLMConfig], Corruption]] = {"masked": _masked, "uniform": _uniform}
ORDERS: dict[str, Callable[[MDLMConfig], Order]] = {"whole": _whole, "blocks": _blocks, "eso": _esoteric}


def family_of(model_or_config: Any) -> Family:
    """The family of a model or its config."""
    config: MDLMConfig = getattr(model_or_config, "config", model_or_config)
    parts = FAMILY_PARTS[getattr(config, "diffusion", "masked")]
    order = ORDERS[parts.order](config)
    return Family(CORRUPTIONS[parts.noise](config), order, order.schedule(get_schedule(config.noise_schedule)))
