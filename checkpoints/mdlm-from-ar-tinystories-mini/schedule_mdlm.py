"""Noise schedules of masked diffusion: the share of tokens that are unmasked at time t."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch


class NoiseSchedule(ABC):
    """alpha(t), the share of tokens still unmasked at time t in [0, 1]; falls from 1 to 0.

    Source: Sahoo et al. 2024, arXiv 2406.07524, section 3. All methods map a tensor (or float) of any shape to a
    tensor of that shape.
    """

    def alpha(self, t: torch.Tensor | float) -> torch.Tensor:
        """The share of tokens still unmasked at time t."""
        return 1 - self.mask_rate(t)

    @abstractmethod
    def mask_rate(self, t: torch.Tensor | float) -> torch.Tensor:
        """1 - alpha(t), exact near t = 0, where 1 - alpha would cancel."""

    @abstractmethod
    def weight(self, t: torch.Tensor | float) -> torch.Tensor:
        """-alpha'(t) / (1 - alpha(t)), the weight of a masked token's cross-entropy in the NELBO (eq. 10)."""

    @abstractmethod
    def slope(self, t: torch.Tensor | float) -> torch.Tensor:
        """-alpha'(t)."""

    @abstractmethod
    def time_at(self, mask_rate: torch.Tensor | float) -> torch.Tensor:
        """The t at which the given share of tokens is masked."""


@dataclass(frozen=True)
class LinearSchedule(NoiseSchedule):
    """alpha = 1 - t, weight 1 / t."""

    def mask_rate(self, t: torch.Tensor | float) -> torch.Tensor:
        return torch.as_tensor(t)

    def weight(self, t: torch.Tensor | float) -> torch.Tensor:
        return 1 / torch.as_tensor(t)

    def slope(self, t: torch.Tensor | float) -> torch.Tensor:
        return torch.ones_like(torch.as_tensor(t))

    def time_at(self, mask_rate: torch.Tensor | float) -> torch.Tensor:
        return torch.as_tensor(mask_rate)


@dataclass(frozen=True)
class CosineSchedule(NoiseSchedule):
    """alpha = cos^2(pi t / 2), weight pi cot(pi t / 2)."""

    def mask_rate(self, t: torch.Tensor | float) -> torch.Tensor:
        return torch.sin(math.pi / 2 * torch.as_tensor(t)) ** 2

    def weight(self, t: torch.Tensor | float) -> torch.Tensor:
        return math.pi / torch.tan(math.pi / 2 * torch.as_tensor(t))

    def slope(self, t: torch.Tensor | float) -> torch.Tensor:
        return math.pi / 2 * torch.sin(math.pi * torch.as_tensor(t))

    def time_at(self, mask_rate: torch.Tensor | float) -> torch.Tensor:
        return 2 / math.pi * torch.asin(torch.as_tensor(mask_rate).sqrt())


@dataclass(frozen=True)
class ScaledSchedule(NoiseSchedule):
    """alpha_0 times another schedule's alpha: at t = 0 a share 1 - alpha_0 is still masked (Sahoo et al. 2025, arXiv 2506.01928).

    Args:
        base: the other schedule.
        alpha_0: in [0, 1].
    """

    base: NoiseSchedule
    alpha_0: float

    def mask_rate(self, t: torch.Tensor | float) -> torch.Tensor:
        return (1 - self.alpha_0) + self.alpha_0 * self.base.mask_rate(t)

    def weight(self, t: torch.Tensor | float) -> torch.Tensor:
        return self.slope(t) / self.mask_rate(t)

    def slope(self, t: torch.Tensor | float) -> torch.Tensor:
        return self.alpha_0 * self.base.slope(t)

    def time_at(self, mask_rate: torch.Tensor | float) -> torch.Tensor:
        """1 for alpha_0 = 0, where all is masked at all times; 0 for shares that no time has."""
        rate = torch.as_tensor(mask_rate)
        if self.alpha_0 == 0:
            return torch.ones_like(rate)
        return self.base.time_at(((rate - (1 - self.alpha_0)) / self.alpha_0).clamp(0, 1))


SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule()}


def get_schedule(name: str) -> NoiseSchedule:
    """The schedule of that name; ValueError for a name that is not in `SCHEDULES`."""
    if name not in SCHEDULES:
        raise ValueError(f"noise_schedule={name!r} is not one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]
