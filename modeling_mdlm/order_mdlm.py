"""Where and when a text is corrupted: one half of a diffusion family. The other half, `corruption_mdlm`, says how."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .corruption_mdlm import Corruption
from .schedule_mdlm import NoiseSchedule

ANTITHETIC = ("none", "counts", "complement")


class Corrupted(NamedTuple):
    """Keyword arguments of `MDLMForMaskedDiffusion.forward`, for B rows of L positions."""

    input_ids: torch.Tensor  # (B, L), noise where corrupted
    labels: torch.Tensor  # (B, L), the clean token where corrupted, -100 elsewhere
    timesteps: torch.Tensor  # (B,)
    loss_weights: torch.Tensor | None  # (B,); None: the model's own


class Draws(NamedTuple):
    """S draws of a row's bound."""

    changed: torch.Tensor  # (S, L) bool, the corrupted positions
    weights: torch.Tensor  # (S,) float64, of their cross-entropies


class Order(ABC):
    """Layout and times of a family; it knows nothing of the noise."""

    @abstractmethod
    def lay_out(
        self,
        tokens: torch.Tensor,
        open: torch.Tensor,
        corruption: Corruption,
        schedule: NoiseSchedule,
        objective: str,
        generator: torch.Generator,
        stratified: bool = True,
    ) -> Corrupted:
        """Clean rows (B, L) as a training batch; only positions where `open` (B, L) is True are corrupted.

        Args:
            objective: one of the corruption's.
            stratified: times as in `sample_timesteps`.
        """

    @abstractmethod
    def bound_draws(
        self,
        scored: torch.Tensor,
        corruption: Corruption,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        """Draws whose weighted cross-entropies have the NELBO of one row as their mean.

        Args:
            scored: (L,) bool, the positions of which the likelihood is wanted.
            antithetic: one of `ANTITHETIC`; pairs stand next to each other. See `metrics.likelihood.nelbo`.
        """


@dataclass(frozen=True)
class Whole(Order):
    """One time for all positions of a row, in no order."""

    def lay_out(
        self,
        tokens: torch.Tensor,
        open: torch.Tensor,
        corruption: Corruption,
        schedule: NoiseSchedule,
        objective: str,
        generator: torch.Generator,
        stratified: bool = True,
    ) -> Corrupted:
        timesteps = sample_timesteps(len(tokens), generator, stratified)
        uniform = torch.rand(tokens.shape, generator=generator)
        changed = (uniform < schedule.mask_rate(timesteps)[:, None]) & open
        weights = corruption.loss_weights(objective, timesteps)
        return Corrupted(corruption.replace(tokens, changed), tokens.masked_fill(~changed, -100), timesteps, weights)

    def bound_draws(
        self,
        scored: torch.Tensor,
        corruption: Corruption,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        positions = scored.nonzero()[:, 0]
        length = len(positions)
        strata = num_samples if antithetic == "none" else (num_samples + 1) // 2
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        u = (torch.arange(strata) + offset) / strata
        counts = (u * length).long().clamp(max=length - 1) + 1
        if antithetic != "none":
            counts = torch.stack([counts, length + 1 - counts], dim=1).flatten()[:num_samples]
        # Ranks among the row's own positions only: where padding stands changes nothing.
        ranks = torch.rand(num_samples, length, generator=generator).argsort(-1).argsort(-1)
        if antithetic == "complement":
            ranks[1::2] = length - 1 - ranks[::2]
        changed = torch.zeros(num_samples, len(scored), dtype=torch.bool)
        changed[:, positions] = ranks < counts[:, None]
        return Draws(changed, corruption.bound_weights(counts, length))


def sample_timesteps(num_rows: int, generator: torch.Generator, stratified: bool = True) -> torch.Tensor:
    """Times (num_rows,) in (0, 1].

    Stratified over the whole batch, t_i = (u + i) / n mod 1 with one u a step and the rows in random order (Sahoo et al.
    2024, arXiv 2406.07524, the low-discrepancy sampler), or independent (the arche paper).
    """
    if stratified:
        u = torch.rand(1, generator=generator, dtype=torch.float64)
        # In random order: a batch's rows stand in order of length, and no length may always get the same time.
        order = torch.randperm(num_rows, generator=generator)
        times = (u + order) / num_rows % 1
    else:
        times = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    return (1 - times).float()  # (0, 1]: at t = 0 nothing is masked and the NELBO's weight is infinite
