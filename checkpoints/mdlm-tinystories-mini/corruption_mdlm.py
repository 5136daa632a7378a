"""What noise does to a token: one half of a diffusion family. The other half, `order_mdlm`, says where and when."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch


class Corruption(ABC):
    """The noise of a family; it knows nothing of layouts, canvases and models."""

    objectives: ClassVar[tuple[str, ...]]  # of training

    @abstractmethod
    def replace(self, tokens: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        """`tokens` (..., L) with noise at the True positions of `changed` (..., L)."""

    @abstractmethod
    def loss_weights(self, objective: str, timesteps: torch.Tensor) -> torch.Tensor | None:
        """Factors (B,) of the losses of rows at `timesteps` (B,); None for the model's own, those of the NELBO.

        ValueError for an objective that is not one of `objectives`.
        """

    @abstractmethod
    def bound_weights(self, counts: torch.Tensor, length: int) -> torch.Tensor:
        """(S,) float64: the factor of the cross-entropies of a draw that has `counts` (S,) of `length` positions changed, with
        which their mean over draws is the NELBO, the counts being uniform over 1 to `length`."""


@dataclass(frozen=True)
class Masked(Corruption):
    """A changed token is the mask, and stays it (Sahoo et al. 2024, arXiv 2406.07524).

    Objectives: `nelbo`: weight w(t), eq. 10; `low_variance`: 1, Sahoo et al. 2026, arXiv 2602.15014; `masked_mean`: 1
    (Vicentino 2026, arXiv 2603.22075), which differs by what the sum is divided by.
    """

    mask_token_id: int
    objectives = ("nelbo", "low_variance", "masked_mean")

    def replace(self, tokens: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        return tokens.masked_fill(changed, self.mask_token_id)

    def loss_weights(self, objective: str, timesteps: torch.Tensor) -> torch.Tensor | None:
        if objective not in self.objectives:
            raise ValueError(f"objective={objective!r} is not one of {', '.join(self.objectives)}")
        return None if objective == "nelbo" else torch.ones_like(timesteps)

    def bound_weights(self, counts: torch.Tensor, length: int) -> torch.Tensor:
        return length / counts.double()
