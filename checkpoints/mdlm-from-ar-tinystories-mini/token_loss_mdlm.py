"""Losses of single tokens from their logits, each with its gradient in closed form, so that logits can be overwritten by it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch.nn import functional

from .precision_mdlm import finest, refined

Loss = TypeVar("Loss", bound="TokenLoss")

# Below it a token is noise to float32, and the loss of uniform noise is 0 to float32.
_LEAST_ALPHA = 1e-7
# Times are above it; only positions that count for nothing are at 0.
_LEAST_RATE = 1e-9


@dataclass(frozen=True)
class TokenLoss(ABC):
    """Losses of N positions, each in nats.

    Args:
        targets: (N,) the clean tokens.
        forbidden_id: a token of probability zero (the mask); it may lie past a narrow head.
    """

    targets: torch.Tensor
    forbidden_id: int | None = None

    @abstractmethod
    def in_place(self, logits: torch.Tensor, coefficients: torch.Tensor | None) -> torch.Tensor:
        """(N,) losses of float32 logits (N, V), which are overwritten: with coefficients (N,) by the gradient of the sum of
        coefficient * loss."""

    @abstractmethod
    def plain(self, logits: torch.Tensor) -> torch.Tensor:
        """(N,) losses of logits (N, V), which autograd can differentiate."""

    def part(self: Loss, where: slice) -> Loss:
        """Those of some of the positions."""
        return self._changed(lambda values: values[where])

    def to(self: Loss, device: torch.device) -> Loss:
        """The same on a device."""
        return self._changed(lambda values: values.to(device))

    def _changed(self: Loss, change: Callable[[torch.Tensor], torch.Tensor]) -> Loss:
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: change(x) for name, x in own.items() if isinstance(x, torch.Tensor)}
        return replace(self, **moved)

    def _forbids(self, logits: torch.Tensor) -> bool:
        return self.forbidden_id is not None and self.forbidden_id < logits.shape[-1]

    def _forbid_in_place(self, logits: torch.Tensor) -> torch.Tensor:
        if self.forbidden_id is not None and self._forbids(logits):
            logits[:, self.forbidden_id] = -torch.inf
        return logits

    def _forbid(self, logits: torch.Tensor) -> torch.Tensor:
        if self.forbidden_id is None or not self._forbids(logits):
            return logits
        forbidden = torch.eq(torch.arange(logits.shape[-1], device=logits.device), self.forbidden_id)
        return logits.masked_fill(forbidden, -torch.inf)


@dataclass(frozen=True)
class CrossEntropy(TokenLoss):
    """-log softmax(logits)[target]; where `raised` tokens are given, their logits are raised by `amounts` first, each (N,)."""

    raised: torch.Tensor | None = None
    amounts: torch.Tensor | None = None

    def in_place(self, logits: torch.Tensor, coefficients: torch.Tensor | None) -> torch.Tensor:
        logits = self._forbid_in_place(logits)
        if self.raised is not None and self.amounts is not None:
            logits.scatter_add_(-1, self.raised[:, None], self.amounts[:, None].to(logits.dtype))
        targets = self.targets[:, None]
        chosen = logits.gather(-1, targets)
        peak = logits.amax(-1, keepdim=True)
        total = logits.sub_(peak).exp_().sum(-1, keepdim=True)
        if coefficients is not None:
            factors = coefficients[:, None]
            logits.mul_(factors / total).scatter_add_(-1, targets, -factors)
        return (peak + total.log() - chosen)[:, 0]

    def plain(self, logits: torch.Tensor) -> torch.Tensor:
        logits = self._forbid(logits)
        if self.raised is not None and self.amounts is not None:
            logits = logits.scatter_add(-1, self.raised[:, None], self.amounts[:, None].to(logits.dtype))
        return functional.cross_entropy(logits, self.targets, reduction="none")


@dataclass(frozen=True)
class ScoreEntropy(TokenLoss):
    """The score entropy of an absorbing state over its weight w(t): with scores s = rho exp(logits) / V, whose sum is S rho,
    it is -log softmax(logits)[target] + S - 1 - log S (Lou et al. 2024, arXiv 2310.16834, eq. 5; the excess over the NELBO is
    never negative, and 0 for S = 1).

    Args:
        num_tokens: V, how many tokens can occur; the logits of others are -inf.
    """

    num_tokens: int = 1

    def in_place(self, logits: torch.Tensor, coefficients: torch.Tensor | None) -> torch.Tensor:
        logits = self._forbid_in_place(logits).sub_(math.log(self.num_tokens))
        chosen = logits.gather(-1, self.targets[:, None])
        total = logits.exp_().sum(-1, keepdim=True)
        if coefficients is not None:
            factors = coefficients[:, None]
            logits.mul_(factors).scatter_add_(-1, self.targets[:, None], -factors)
        return (total - 1 - chosen)[:, 0]

    def plain(self, logits: torch.Tensor) -> torch.Tensor:
        logits = self._forbid(logits) - math.log(self.num_tokens)
        return logits.exp().sum(-1) - 1 - logits.gather(-1, self.targets[:, None])[:, 0]


@dataclass(frozen=True)
class UniformBound(TokenLoss):
    """The term of a position in the NELBO of uniform noise over its factor -alpha'(t), for a leave-one-out denoiser (Schiff et
    al. 2024, arXiv 2412.10193; Sahoo et al. 2025, arXiv 2506.10892).

    Written with r = V alpha / (1 - alpha) and log1p(r x), in which the logarithms of 1 - alpha cancel, so that float32 is enough.

    Args:
        num_tokens: V, how many tokens can occur; the logits of others are -inf.
        noisy: (N,) the tokens that stand there.
        rate: (N,) float64, 1 - alpha.
        lowered: whether the logits are those of a denoiser that sees its own token: they become leave-one-out at first.
    """

    num_tokens: int = 1
    noisy: torch.Tensor | None = None
    rate: torch.Tensor | None = None
    lowered: bool = False

    def in_place(self, logits: torch.Tensor, coefficients: torch.Tensor | None) -> torch.Tensor:
        logits = self._forbid_in_place(logits)
        s = self._scalars()
        if self.lowered:
            logits.scatter_add_(-1, s.noisy, -s.log_r.to(logits.dtype))
        logits.sub_(logits.amax(-1, keepdim=True)).exp_()
        x = logits.div_(logits.sum(-1, keepdim=True))
        there, clean = refined(x.gather(-1, s.noisy)), refined(x.gather(-1, s.clean))
        scaled = x * s.r.to(x.dtype)
        nats = s.value(torch.log1p(scaled).sum(-1, keepdim=True, dtype=finest(x.device)), there, clean)
        if coefficients is not None:
            # d/dx: -k / (b (1 + r x)) everywhere, and more at the two tokens; then through the softmax.
            near = scaled.add_(1).reciprocal_()
            dense = -s.k / s.rate
            at_noisy, at_clean = s.slopes(there, clean)
            mean = (
                dense * (x * near).sum(-1, keepdim=True, dtype=finest(x.device)) + there * at_noisy + clean * at_clean
            )
            factors = refined(coefficients[:, None])
            near.mul_((factors * dense).to(x.dtype)).sub_((factors * mean).to(x.dtype))
            x.mul_(near)
            x.scatter_add_(-1, s.noisy, (factors * there * at_noisy).to(x.dtype))
            x.scatter_add_(-1, s.clean, (factors * clean * at_clean).to(x.dtype))
        return nats[:, 0].to(logits.dtype)

    def plain(self, logits: torch.Tensor) -> torch.Tensor:
        logits = self._forbid(logits)
        s = self._scalars()
        if self.lowered:
            logits = logits.scatter_add(-1, s.noisy, -s.log_r.to(logits.dtype))
        x = logits.softmax(-1)
        there, clean = refined(x.gather(-1, s.noisy)), refined(x.gather(-1, s.clean))
        total = torch.log1p(x * s.r.to(x.dtype)).sum(-1, keepdim=True, dtype=finest(x.device))
        return s.value(total, there, clean)[:, 0].to(logits.dtype)

    def _scalars(self) -> "_UniformScalars":
        assert self.noisy is not None
        assert self.rate is not None
        rate = refined(self.rate)[:, None].clamp(min=_LEAST_RATE)
        alpha = (1 - rate).clamp(min=_LEAST_ALPHA)
        return _UniformScalars(self.num_tokens, rate, alpha, self.noisy[:, None], self.targets[:, None])


@dataclass(frozen=True)
class _UniformScalars:
    """What a position's loss needs beside the sum over the vocabulary; each (N, 1), numbers in float64."""

    num_tokens: int
    rate: torch.Tensor
    alpha: torch.Tensor
    noisy: torch.Tensor
    clean: torch.Tensor

    @property
    def r(self) -> torch.Tensor:
        return self.num_tokens * self.alpha / self.rate

    @property
    def log_r(self) -> torch.Tensor:
        """log(1 + r), by which the logit of the token that stands there is higher in a denoiser that sees it."""
        return torch.log1p(self.r)

    @property
    def same(self) -> torch.Tensor:
        return self.noisy == self.clean

    @property
    def k(self) -> torch.Tensor:
        return torch.where(self.same, 1 / (1 + self.r), 1.0)

    def value(self, total: torch.Tensor, there: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """`total`: the sum over tokens of log1p(r x); `there`, `clean`: x of the noisy and of the clean token."""
        r, v, b = self.r, self.num_tokens, self.rate
        log_there, log_clean = torch.log1p(r * there), torch.log1p(r * clean)
        other = v / b * r * there / (1 + r * there) - v * log_there + total
        other = other - r * (log_there - log_clean) - (1 + r) * self.log_r
        same = v / b * r * (there - 1) / ((1 + r) * (1 + r * there)) - (v * log_there - total) / (1 + r)
        same = same + (v - 1) * self.log_r / (1 + r)
        return -torch.where(self.same, same, other) / (v * self.alpha)

    def slopes(self, there: torch.Tensor, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the derivative in x has more at the noisy and at the clean token."""
        r, v, b = self.r, self.num_tokens, self.rate
        near = 1 / (1 + r * there)
        at_noisy = -(v / b * near**2 - torch.where(self.same, v / (1 + r), v + r) * near) / b
        at_clean = torch.where(self.same, 0.0, -r / (b * (1 + r * clean)))
        return at_noisy, at_clean
