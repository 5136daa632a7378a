"""The families of diffusion: a corruption and an order each, found by a model's `config.diffusion`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .configuration_mdlm import MDLMConfig
from .corruption_mdlm import Corruption, Masked
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
    ) -> Corrupted:
        """A training batch of clean rows (B, L), corrupted where `open` (B, L) is True; see `Order.lay_out`."""
        return self.order.lay_out(tokens, open, self.corruption, self.schedule, objective, generator, stratified)

    def bound_draws(
        self,
        scored: torch.Tensor,
        attended: torch.Tensor,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        """Draws of the bound of one row, at the positions where `scored` (L,) is True; see `Order.bound_draws`."""
        return self.order.bound_draws(scored, attended, self.corruption, num_samples, antithetic, generator)


# By `config.diffusion`, whose choices the configuration checks.
FAMILIES: dict[str, Callable[[MDLMConfig], tuple[Corruption, Order]]] = {
    "masked": lambda config: (Masked(config.mask_token_id), Whole()),
    "block": lambda config: (Masked(config.mask_token_id), Blocks(int(config.attention_block_length))),  # type: ignore[arg-type]
}


def family_of(model_or_config: Any) -> Family:
    """The family of a model or its config."""
    config: MDLMConfig = getattr(model_or_config, "config", model_or_config)
    return Family(*FAMILIES[config.diffusion](config), get_schedule(config.noise_schedule))
