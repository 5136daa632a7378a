"""Samplers of uniform noise: all open positions hold tokens from the start, and any of them may change until the last step."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from .canvas_mdlm import Draft
from .configuration_mdlm import MDLMConfig
from .corruption_mdlm import Uniform
from .family_mdlm import family_of
from .noise_mdlm import RowNoise
from .prediction_mdlm import Prediction
from .samplers_mdlm import POSITION, REMASK, Sampler, register_sampler

KEEP, CLEAN, NOISE, ROUTE = range(5, 9)  # more purposes of a step's noise


@register_sampler("ancestral", noise="uniform")
@dataclass(frozen=True)
class UniformAncestralSampler(Sampler):
    """Ancestral sampling of uniform noise (Schiff et al. 2024, arXiv 2412.10193): the posterior of q with a leave-one-out denoiser in
    it, drawn by three routes that do not need the whole law.

    With x that denoiser and z the token that stands there, from t to s a position is clean with probability
    alpha(t) x[z] / (alpha(t) x[z] + (1 - alpha(t)) / V), and stays. Else it gets a token of x with probability
    (alpha(s) - alpha(t)) / (1 - alpha(t)); else it stays noise: the same with probability alpha(t) / alpha(s), or a new one.
    The last of these is drawn before the model runs, which is then not needed there.

    Temperature, top-p and other processors change x, not the law of the step.

    Args:
        greedy_tail: the last step takes the most probable token given the one that stands there, in place of a draw.
    """

    corruption: Uniform = field(kw_only=True)
    greedy_tail: bool = False
    options: ClassVar[tuple[str, ...]] = ("greedy_tail",)

    @classmethod
    def of_model(cls, model_config: MDLMConfig) -> dict[str, Any]:
        return {"corruption": family_of(model_config).corruption}

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        last = s <= 0
        ends = draft.masked & last if self.greedy_tail else torch.zeros_like(draft.masked)
        moved = self._move(predict, draft, draft.masked & ~ends, t, s, noise)
        if self.greedy_tail:
            moved = moved.put(ends, self._most_probable(predict, draft, ends, t))
        return moved.settle(last)

    def finishing_time(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def finish(self, predict: Prediction, draft: Draft, t: torch.Tensor, noise: RowNoise) -> Draft:
        return self.step(predict, draft, t, torch.zeros_like(t), noise)

    def _move(
        self,
        predict: Prediction,
        draft: Draft,
        open: torch.Tensor,
        t: torch.Tensor,
        s: torch.Tensor,
        noise: RowNoise,
    ) -> Draft:
        """The draft with the True positions of `open` (B, L) at time s, none of them settled."""
        needed = open & ~self._stays_noise(t, s, noise)
        return draft.put(needed, self._drawn(predict, draft, needed, self._moves(t, s, noise), t, noise))

    def _moves(self, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> torch.Tensor:
        """(B, L) bool: which positions, if they are noise, get a token of the denoiser."""
        return noise.uniform(POSITION) < 1 - self.schedule.mask_rate(s) / self.schedule.mask_rate(t)

    def _stays_noise(self, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> torch.Tensor:
        """(B, L) bool: which positions keep their token, be it clean or noise."""
        kept = noise.uniform(KEEP) < self.schedule.alpha(t) / self.schedule.alpha(s)
        return kept & ~self._moves(t, s, noise)

    def _drawn(
        self,
        predict: Prediction,
        draft: Draft,
        where: torch.Tensor,
        moves: torch.Tensor,
        t: torch.Tensor,
        noise: RowNoise,
    ) -> torch.Tensor:
        """A token for each of the N True positions of `where` (B, L): that which stands there if it is clean, else one of the denoiser
        where `moves` (B, L), else noise."""
        old, rate = draft.tokens[where], self.schedule.mask_rate(t).expand_as(where)[where]
        proposal = self.propose(predict, where, noise, standing=old)
        assert proposal.standing is not None  # asked for
        odds = (1 - rate) * proposal.standing * self.corruption.num_tokens / rate
        clean = noise.uniform(CLEAN)[where] * (1 + odds) < odds
        noisy = self.corruption.tokens_of(noise.uniform(NOISE)[where])
        return torch.where(clean, old, torch.where(moves[where], proposal.tokens, noisy))

    def _most_probable(self, predict: Prediction, draft: Draft, where: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """(N,) at the N True positions of `where` (B, L) the most probable token given the one that stands there."""
        standing = draft.tokens[where]
        amounts = self.corruption.own_token_logit(self.schedule.mask_rate(t).expand_as(where)[where])

        def process(logits: torch.Tensor, part: slice) -> torch.Tensor:
            return logits.scatter_add_(-1, standing[part, None], amounts[part, None].to(logits.dtype))

        return predict.propose(where, None, process=process).tokens


@register_sampler("psi", noise="uniform")
@dataclass(frozen=True)
class PsiSampler(UniformAncestralSampler):
    """Psi-samplers (Sahoo et al. 2026, arXiv 2602.21185): with probability `kappa` an ancestral step, else the position is
    denoised fully and noise is put back to the level of s. Every `kappa` keeps the law of a true denoiser's canvas; below 1 a
    wrong one is corrected on the way, at the price of more steps.

    Args:
        kappa: 1 is ancestral sampling.
    """

    kappa: float = 0.95
    options = ("greedy_tail", "kappa")

    def __post_init__(self) -> None:
        if not 0 <= self.kappa <= 1:
            raise ValueError(f"kappa={self.kappa!r} must be in 0 to 1")

    def _move(
        self,
        predict: Prediction,
        draft: Draft,
        open: torch.Tensor,
        t: torch.Tensor,
        s: torch.Tensor,
        noise: RowNoise,
    ) -> Draft:
        denoised = open & (noise.uniform(ROUTE) >= self.kappa)
        renewed = denoised & (noise.uniform(REMASK) < self.schedule.mask_rate(s))
        needed = open & ~renewed & (denoised | ~self._stays_noise(t, s, noise))
        moves = self._moves(t, s, noise) | denoised
        moved = draft.put(needed, self._drawn(predict, draft, needed, moves, t, noise))
        return moved.put(renewed, self.corruption.tokens_of(noise.uniform(NOISE)[renewed]))


@register_sampler("gibbs", noise="uniform")
@dataclass(frozen=True)
class GibbsSampler(UniformAncestralSampler):
    """An ancestral step, then corrections at the level of s: a random open position is drawn anew from
    alpha(s) x + (1 - alpha(s)) / V, with x the leave-one-out denoiser of the canvas. One position a forward keeps the law of the noisy
    canvas exactly; several in one forward would not.

    Args:
        corrector_steps: corrections a step, each a forward.
    """

    corrector_steps: int = 1
    options = ("greedy_tail", "corrector_steps")

    def __post_init__(self) -> None:
        if self.corrector_steps != int(self.corrector_steps) or self.corrector_steps < 0:
            raise ValueError(f"corrector_steps={self.corrector_steps!r} must be a whole number of at least 0")

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        draft = super().step(predict, draft, t, s, noise)
        for number in range(int(self.corrector_steps)):
            if not bool(draft.masked.any()):
                break
            own = noise.branch(number + 1)
            place = own.uniform(POSITION).masked_fill(~draft.masked, -1.0).argmax(-1, keepdim=True)
            where = torch.zeros_like(draft.masked).scatter_(1, place, True) & draft.masked
            renewed = where & (own.uniform(REMASK) < self.schedule.mask_rate(s))
            draft = draft.put(renewed, self.corruption.tokens_of(own.uniform(NOISE)[renewed]))
            redrawn = where & ~renewed
            proposal = self.propose(predict.after(draft, s), redrawn, own)
            draft = draft.put(redrawn, proposal.tokens)
        return draft
