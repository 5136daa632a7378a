"""Samplers that propose a token for every masked position and keep those with the best score.

None of them is exact when it fills several positions a step. One at a time, those whose score does not look at the drawn token
(margin, entropy) are exact, in their own order; those that do (confidence, arche, threshold) favour likely text.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from .canvas_mdlm import Draft, Proposal
from .noise_mdlm import RowNoise
from .precision_mdlm import refined
from .prediction_mdlm import Prediction
from .samplers_mdlm import Sampler, even_share, register_sampler, top_k_per_row


@dataclass(frozen=True)
class OrderedSampler(Sampler):
    """Fills the positions with the highest score; their number is an even share of the masked ones, or given by `count`.

    Scores come from the model's own distribution, not from that after temperature or top-p, where greedy settings would
    make all positions equally sure.
    """

    statistics: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def score(self, proposal: Proposal) -> torch.Tensor:
        """(N,) float64: how sure the model is at each proposed position."""

    def count(self, scores: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """(B,) how many positions to fill, from scores (B, L), -inf at unmasked positions, and the even share (B,)."""
        return share

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        proposal = self.propose(predict, draft.masked, noise, statistics=self.statistics)
        share = even_share(draft.masked, t, s)
        return fill_best(draft, proposal, self.score(proposal), lambda scores: self.count(scores, share))


def fill_best(
    draft: Draft, proposal: Proposal, score: torch.Tensor, count: Callable[[torch.Tensor], torch.Tensor]
) -> Draft:
    """Fill the `count(scores)` (B,) positions of highest score (N,), out of a proposal for all masked ones."""
    scores = torch.full(draft.masked.shape, -torch.inf, dtype=score.dtype, device=score.device)
    scores = scores.masked_scatter(draft.masked, score)
    chosen = draft.masked & top_k_per_row(scores, count(scores))
    return draft.fill(chosen, proposal.select(chosen[draft.masked]))


@register_sampler("confidence")
@dataclass(frozen=True)
class ConfidenceSampler(OrderedSampler):
    """The drawn tokens of highest probability first (MaskGIT, Chang et al. 2022, arXiv 2202.04200; LLaDA, 2502.09992).

    The length of the text is drawn beforehand (`draw_length=False` turns that off).
    """

    draws_length = True

    def score(self, proposal: Proposal) -> torch.Tensor:
        return proposal.confidence


@register_sampler("margin")
@dataclass(frozen=True)
class MarginSampler(OrderedSampler):
    """Widest gap between the two most probable tokens first (Kim et al. 2025, arXiv 2502.06768, "top-K margin")."""

    statistics = ("margin",)

    def score(self, proposal: Proposal) -> torch.Tensor:
        assert proposal.margin is not None  # asked for in `statistics`
        return proposal.margin


@register_sampler("entropy")
@dataclass(frozen=True)
class EntropySampler(OrderedSampler):
    """Lowest entropy first (Dream, Ye et al. 2025, arXiv 2508.15487; Koh et al. 2024, arXiv 2411.15684)."""

    statistics = ("entropy",)

    def score(self, proposal: Proposal) -> torch.Tensor:
        assert proposal.entropy is not None  # asked for in `statistics`
        return -proposal.entropy


@register_sampler("entropy_bound")
@dataclass(frozen=True)
class EntropyBoundSampler(EntropySampler):
    """As many positions of lowest entropy as a bound allows (EB-Sampler, Ben-Hamu et al. 2025, arXiv 2505.24857, eq. 9).

    Their entropies, the largest left out, add up to at most `entropy_bound` nats: that bounds how much the tokens filled
    together can depend on each other. At least one position is filled, and at least an even share of the steps left.
    """

    entropy_bound: float = 0.1
    sets_own_pace = True
    options = ("entropy_bound",)

    def __post_init__(self) -> None:
        if not self.entropy_bound >= 0:
            raise ValueError(f"entropy_bound={self.entropy_bound!r} must be a number of nats, at least 0")

    def count(self, scores: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        entropies = -scores.sort(dim=-1, descending=True).values
        before = entropies.cumsum(-1) - entropies  # the j lowest entropies without the largest of them
        within = (before <= self.entropy_bound) & entropies.isfinite()
        return within.sum(-1).maximum(share)


@register_sampler("threshold")
@dataclass(frozen=True)
class ThresholdSampler(ConfidenceSampler):
    """All drawn tokens of a probability of at least `threshold` (Fast-dLLM, Wu et al. 2025, arXiv 2505.22618, section 3.3).

    With `threshold_factor` f instead: the n surest ones, n the largest with (n + 1) (1 - n-th confidence) < f. At least one
    position is filled, and at least an even share of the steps left.
    """

    threshold: float = 0.9
    threshold_factor: float | None = None
    sets_own_pace = True
    options = ("threshold", "threshold_factor")

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold!r} must be a probability above 0 and at most 1")
        if self.threshold_factor is not None and not self.threshold_factor > 0:
            raise ValueError(f"threshold_factor={self.threshold_factor!r} must be above 0")

    def count(self, scores: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        if self.threshold_factor is None:
            return (scores >= self.threshold).sum(-1).maximum(share)
        ranked = scores.sort(dim=-1, descending=True).values
        n = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
        return ((n + 1) * (1 - ranked) < self.threshold_factor).sum(-1).maximum(share)


@register_sampler("arche")
@dataclass(frozen=True)
class ArcheSampler(Sampler):
    """The released sampler of Vicentino 2026 (arXiv 2603.22075), to the letter, its repetition penalty included.

    Logits of every token already placed are divided by min(1.3^count, 5), signed, so a negative logit RISES; the
    temperature falls from T to 0.4 T as t goes from 1 to 0 (the paper: T = 0.8); floor(masked / steps left)
    positions a step, at least one, go to the drawn tokens of highest probability.
    """

    anneals_temperature = True

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        rows = draft.masked.nonzero()[:, 0]
        penalty = self._penalty(draft.tokens)
        temperature = self.temperature * (0.4 + 0.6 * t)

        def process(logits: torch.Tensor, part: slice) -> torch.Tensor:
            placed, owner = draft.tokens[rows[part]], rows[part]
            penalised = logits.gather(-1, placed) / penalty[owner].to(logits.dtype)
            return logits.scatter_(-1, placed, penalised).div_(temperature[owner].to(logits.dtype))

        proposal = self.propose(predict, draft.masked, noise, process=process)
        steps_left = torch.round(t / (t - s))[:, 0].long()
        count = (draft.masked.sum(-1) // steps_left).clamp(min=1)
        return fill_best(draft, proposal, proposal.confidence, lambda scores: count)

    @staticmethod
    def _penalty(tokens: torch.Tensor) -> torch.Tensor:
        """(B, L) the divisor of the logit of each token on the canvas; a mask's own logit is -inf and stays -inf."""
        counts = (tokens[:, :, None] == tokens[:, None, :]).sum(-1)
        return (1.3 ** refined(counts)).clamp(max=5.0)
