"""The block and the times (t, s) of each row at every step of a generation."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .canvas_mdlm import Canvas
from .noise_mdlm import RowNoise
from .samplers_mdlm import Sampler


@dataclass(frozen=True)
class Timetable:
    """Shares each row's steps out over its blocks, left to right; in a block, t falls from 1 to 0 on an even grid.

    A row's times depend on its own numbers only, not on its batch.

    Args:
        steps: (B,) denoising steps, raised to one a block.
        num_blocks: (B,) at least 1.
    """

    steps: torch.Tensor
    num_blocks: torch.Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.steps.maximum(self.num_blocks))

    @property
    def total(self) -> int:
        """Steps of the row that has most."""
        return int(self.steps.max())

    def at(self, step: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Block (B,), `num_blocks` for a row that is through, and the times t > s, each (B, 1), float64, of a step; of steps
        (K, 1), all of them with a dimension K in front."""
        block = ((step + 1) * self.num_blocks - 1) // self.steps
        first, behind = self._start(block), self._start(block + 1)
        length = (behind - first).to(torch.float64)
        t = 1 - (step - first) / length
        s = 1 - (step + 1 - first) / length
        return block, t[..., None], s[..., None]

    def _start(self, block: torch.Tensor) -> torch.Tensor:
        """The step (B,) at which a block begins."""
        return block * self.steps // self.num_blocks


_LOOK_AHEAD = 1 << 20  # positions times steps looked at at once


def busy_steps(sampler: Sampler, canvas: Canvas, plan: Timetable, seeds: torch.Tensor) -> Iterator[int]:
    """The steps of a plan that may fill something, in order; those of a sampler that can tell beforehand (`may_fill`)."""
    if not hasattr(sampler, "may_fill") or plan.total <= int(canvas.masked.sum(-1).max()):
        yield from range(plan.total)  # with so few steps nearly all of them do
        return
    size = max(1, _LOOK_AHEAD // canvas.tokens.numel())
    for first in range(0, plan.total, size):
        steps = torch.arange(first, min(first + size, plan.total), device=seeds.device)
        block, t, s = plan.at(steps[:, None])
        open_there = canvas.masked & (canvas.block == block[..., None])  # (K, B, L)
        noise = RowNoise(seeds, canvas.position_ids, steps[:, None])
        fills = sampler.may_fill(open_there, t, s, noise)
        fills &= fills.cumsum(0) == 1  # later fills find the position already filled
        yield from steps[fills.flatten(1).any(-1)].tolist()
