"""What noise does to a token, and what is lost by a prediction: one half of a diffusion family. The other half, `order_mdlm`,
says where and when."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from .family_parts_mdlm import OBJECTIVES
from .precision_mdlm import refined
from .schedule_mdlm import NoiseSchedule
from .token_loss_mdlm import CrossEntropy, ScoreEntropy, TokenLoss, UniformBound


class Corruption(ABC):
    """The noise of a family; it knows nothing of layouts, canvases and models."""

    name: ClassVar[str]  # of the noise: samplers are registered by it
    objectives: ClassVar[tuple[str, ...]]  # of training
    # Whether a position is settled once and for all, so that texts have orders of writing and an exact likelihood in each.
    has_order: ClassVar[bool]
    # Whether what is lost depends on the noise level, of which each position has its own: 0 where nothing is corrupted.
    tells_noise: ClassVar[bool]
    least_changed: ClassVar[int]  # positions changed in the first stratum of the bound
    sees_own_token: bool = False  # whether the head's law at a position is also given the noisy token that stands there

    @abstractmethod
    def replacements(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Noise tokens of a shape."""

    @abstractmethod
    def tokens_of(self, uniform: torch.Tensor) -> torch.Tensor:
        """Noise tokens by numbers in [0, 1), of their shape: what a canvas holds at the start of sampling."""

    @abstractmethod
    def labelled(self, changed: torch.Tensor, open: torch.Tensor, objective: str) -> torch.Tensor:
        """(B, L) bool: which positions have a loss, of those that may be corrupted (`open`) and those that are (`changed`)."""

    def loss_weights(self, objective: str, timesteps: torch.Tensor) -> torch.Tensor | None:
        """Factors of the losses at `timesteps`, of its shape: 1; None for those of the NELBO (`bound_weights`).

        ValueError for an objective that is not one of `objectives`.
        """
        self._check_objective(objective)
        return None if objective == "nelbo" else torch.ones_like(timesteps)

    @abstractmethod
    def bound_weights(self, schedule: NoiseSchedule, timesteps: torch.Tensor) -> torch.Tensor:
        """Factors of the losses at `timesteps`, of its shape, with which their sum is the NELBO in expectation."""

    @abstractmethod
    def stratum_weights(self, counts: torch.Tensor, rates: torch.Tensor, length: int) -> torch.Tensor:
        """(S,) float64: the factor of the losses of a draw that has `counts` (S,) of `length` positions changed at the noise levels
        `rates` (S,), with which their mean over draws is the NELBO, the counts being uniform over `least_changed` to `length`."""

    @abstractmethod
    def stratum_rates(self, counts: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """(S,) the noise levels of draws with `counts` (S,) changed positions: those with the lowest `uniform` (S, L) numbers."""

    @abstractmethod
    def token_loss(
        self, targets: torch.Tensor, noisy: torch.Tensor, rate: torch.Tensor | None, objective: str = "nelbo"
    ) -> TokenLoss:
        """What predictions for N positions lose, without weights: clean tokens `targets` (N,), those that stand there (`noisy`) and
        the noise levels there, 1 - alpha. ValueError for an objective that does not exist."""

    def without_own_token(self, logits: torch.Tensor, standing: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        """Leave-one-out logits (N, V), in place, of a head that sees the tokens `standing` (N,) at noise levels `rate` (N,)."""
        return logits

    @abstractmethod
    def missing_noise(self, input_ids: torch.Tensor, labelled: torch.Tensor) -> str | None:
        """What is wrong with canvases (B, L) whose labels stand at `labelled`, if nothing has been corrupted; None for nothing."""

    def _check_objective(self, objective: str) -> None:
        if objective not in self.objectives:
            raise ValueError(f"objective={objective!r} is not one of {', '.join(self.objectives)}")


@dataclass(frozen=True)
class Masked(Corruption):
    """A changed token is the mask, and stays it (Sahoo et al. 2024, arXiv 2406.07524).

    Objectives: `nelbo`: weight w(t), eq. 10; `low_variance`: 1, Sahoo et al. 2026, arXiv 2602.15014; `masked_mean`: 1
    (Vicentino 2026, arXiv 2603.22075), which differs by what the sum is divided by.

    Args:
        scores: V, where the head gives scores of the V tokens that can occur, which may be unnormalised: the loss is their score
            entropy (`ScoreEntropy`). None: it gives logits.
    """

    mask_token_id: int
    scores: int | None = None
    name = "masked"
    objectives = OBJECTIVES["masked"]
    has_order = True
    tells_noise = False
    least_changed = 1

    def replacements(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.tensor(self.mask_token_id, device=generator.device).expand(shape)

    def tokens_of(self, uniform: torch.Tensor) -> torch.Tensor:
        return torch.full_like(uniform, self.mask_token_id, dtype=torch.long)

    def labelled(self, changed: torch.Tensor, open: torch.Tensor, objective: str) -> torch.Tensor:
        return changed

    def bound_weights(self, schedule: NoiseSchedule, timesteps: torch.Tensor) -> torch.Tensor:
        return schedule.weight(timesteps)

    def stratum_weights(self, counts: torch.Tensor, rates: torch.Tensor, length: int) -> torch.Tensor:
        return length / refined(counts)

    def stratum_rates(self, counts: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return counts / uniform.shape[-1]  # the share of masks is all there is to know

    def token_loss(
        self, targets: torch.Tensor, noisy: torch.Tensor, rate: torch.Tensor | None, objective: str = "nelbo"
    ) -> TokenLoss:
        self._check_objective(objective)
        if self.scores is not None:
            return ScoreEntropy(targets, self.mask_token_id, self.scores)
        return CrossEntropy(targets, self.mask_token_id)

    def missing_noise(self, input_ids: torch.Tensor, labelled: torch.Tensor) -> str | None:
        if not bool(labelled.any()) or bool((labelled & (input_ids == self.mask_token_id)).any()):
            return None
        return (
            f"labels are given, but no labelled position of input_ids holds the mask token (id {self.mask_token_id}): a masked "
            "diffusion model learns and scores masked positions. Collators for causal language models make such batches; "
            "mask the inputs first (docs/stock_tools.md)"
        )


@dataclass(frozen=True)
class Uniform(Corruption):
    """A changed token is any of the V that can occur, each with the same probability, the old one too (Austin et al. 2021, arXiv
    2107.03006; Schiff et al. 2024, arXiv 2412.10193).

    Objectives: `nelbo`; `converted`: cross-entropy of the denoiser that sees its own token, at all positions (von Rütte et al.
    2026, arXiv 2605.22765); `resampled`: cross-entropy of the leave-one-out denoiser where a token was drawn anew, also
    where the draw was the old one. All three have the leave-one-out posterior as their minimiser; only the first is a bound.

    Args:
        num_tokens: V, all tokens of the head but the mask.
        mask_token_id: is never noise.
        sees_own_token: whether the head's law at a position is given the token that stands there as well, or the others only,
            which is the minimiser of the NELBO.
    """

    num_tokens: int
    mask_token_id: int
    sees_own_token: bool = False
    name = "uniform"
    objectives = OBJECTIVES["uniform"]
    has_order = False
    tells_noise = True
    least_changed = 0

    def replacements(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return self.tokens_of(torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device))

    def tokens_of(self, uniform: torch.Tensor) -> torch.Tensor:
        return self.token_at((uniform * self.num_tokens).long())

    def token_at(self, index: torch.Tensor) -> torch.Tensor:
        """The tokens of numbers from 0 to V - 1, of their shape."""
        return index + (index >= self.mask_token_id)

    def index_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """The inverse of `token_at`."""
        return tokens - (tokens > self.mask_token_id).long()

    def labelled(self, changed: torch.Tensor, open: torch.Tensor, objective: str) -> torch.Tensor:
        return changed if objective == "resampled" else open

    def bound_weights(self, schedule: NoiseSchedule, timesteps: torch.Tensor) -> torch.Tensor:
        return schedule.slope(timesteps)

    def stratum_weights(self, counts: torch.Tensor, rates: torch.Tensor, length: int) -> torch.Tensor:
        return torch.where(counts == 0, 1.0, (length + 1) / refined(counts).clamp(min=1) * refined(rates))

    def stratum_rates(self, counts: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Beta(k, L - k + 1), the k-th of L uniform numbers; for k = 0 Beta(1, L + 1)."""
        length = uniform.shape[-1]
        ordered = uniform.double().clamp(min=2**-25).sort(-1).values  # at 0 the loss is not finite
        chosen = ordered.gather(-1, (counts - 1).clamp(min=0)[:, None])[:, 0]
        # The least of L + 1 uniform numbers is 1 - (1 - m)^(L / (L + 1)) for m, the least of L.
        none = -torch.expm1(torch.log1p(-chosen) * (length / (length + 1)))
        return torch.where(counts == 0, none, chosen)

    def token_loss(
        self, targets: torch.Tensor, noisy: torch.Tensor, rate: torch.Tensor | None, objective: str = "nelbo"
    ) -> TokenLoss:
        self._check_objective(objective)
        if rate is None:
            raise ValueError(
                "timesteps=None: with uniform noise a loss depends on the noise level; give t of each position"
            )
        if objective == "nelbo":
            return UniformBound(targets, self.mask_token_id, self.num_tokens, noisy, refined(rate), self.sees_own_token)
        # From one denoiser to the other the logit of the token that stands there moves by log(1 + V alpha / (1 - alpha)).
        wanted = objective == "converted"
        if wanted == self.sees_own_token:
            return CrossEntropy(targets, self.mask_token_id)
        amounts = self.own_token_logit(rate)
        return CrossEntropy(targets, self.mask_token_id, noisy, amounts if wanted else -amounts)

    def without_own_token(self, logits: torch.Tensor, standing: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        if not self.sees_own_token:
            return logits
        return logits.scatter_add_(-1, standing[:, None], -self.own_token_logit(rate)[:, None].to(logits.dtype))

    def own_token_logit(self, rate: torch.Tensor) -> torch.Tensor:
        """log(1 + V alpha / (1 - alpha)), float64, of the shape of `rate`: by so much the logit of the token that stands at a position
        is higher in the law given that token than in the law given the others."""
        rate = refined(rate).clamp(min=1e-12)
        return torch.log1p(self.num_tokens * (1 - rate) / rate)

    def missing_noise(self, input_ids: torch.Tensor, labelled: torch.Tensor) -> str | None:
        return None  # an unchanged canvas is a draw like any other
