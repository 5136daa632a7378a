"""The sampler that can mask tokens again: remasking diffusion."""

from dataclasses import dataclass

import torch

from .canvas_mdlm import Draft
from .noise_mdlm import RowNoise
from .prediction_mdlm import Prediction
from .samplers_mdlm import POSITION, REMASK, Sampler, register_sampler

# ReMDM-loop (arXiv 2503.00307, appendix): between these times tokens are only exchanged, at this alpha.
LOOP_START, LOOP_END, LOOP_ALPHA = 0.55, 0.05, 0.9
_DEFAULT_RATES = {"cap": 0.02, "rescale": 0.02, "conf": 1.0, "loop": 0.02}


@register_sampler("remdm")
@dataclass(frozen=True)
class RemaskingSampler(Sampler):
    """Remasking diffusion, ReMDM (Wang et al. 2025, arXiv 2503.00307, eq. 5 and section 4).

    From t to s a token is masked again with probability sigma, and a masked position is filled with probability
    (alpha(s) - (1 - sigma) alpha(t)) / (1 - alpha(t)), so that the share of masks still follows the schedule; sigma is at most
    sigma_max = min(1, (1 - alpha(s)) / alpha(t)). With r = `remasking_rate`, `remasking` says what sigma is:

    - `"cap"`: min(r, sigma_max); r = 0.02 by default, and r = 0 is ancestral sampling.
    - `"rescale"`: r sigma_max; r = 0.02 by default.
    - `"conf"`: min(r, sigma_max) shared out over the row's tokens by a softmax of minus the probability each had
      when it was put there; r = 1 by default.
    - `"loop"`: capped, and only while t is in (0.05, 0.55]; alpha is held at 0.9 in that window, and is run through from 0 to
      0.9 before it and from 0.9 to 1 behind it.

    Which positions are filled is drawn before the model runs, as in ancestral sampling.
    """

    remasking: str = "cap"
    remasking_rate: float | None = None
    remasks = True
    options = ("remasking", "remasking_rate")

    def __post_init__(self) -> None:
        if self.remasking not in _DEFAULT_RATES:
            raise ValueError(f"remasking={self.remasking!r} is not one of {', '.join(_DEFAULT_RATES)}")
        if self.remasking_rate is not None and not 0 <= self.remasking_rate <= 1:
            raise ValueError(f"remasking_rate={self.remasking_rate!r} must be in 0 to 1")

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        alpha_t, alpha_s = self.alpha(t), self.alpha(s)
        written = draft.fillable & ~draft.masked
        sigma = self.sigma(alpha_t, alpha_s, t)
        remask = sigma * self._shares(draft, written) if self.remasking == "conf" else sigma
        # With "conf", sigma is shared out over written positions only: masked ones are filled as without remasking.
        kept = alpha_t if self.remasking == "conf" else (1 - sigma) * alpha_t
        fill_rate = (alpha_s - kept) / (1 - alpha_t)
        chosen = draft.masked & (noise.uniform(POSITION) < fill_rate)
        dropped = written & (noise.uniform(REMASK) < remask)
        times = self.schedule.time_at(1 - alpha_t)[:, 0]
        return draft.fill(chosen, self.propose(predict, chosen, noise, times=times)).remask(dropped)

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """The share of unmasked tokens at time t, of t's shape."""
        if self.remasking != "loop":
            return self.schedule.alpha(t)
        before = LOOP_ALPHA * (1 - t) / (1 - LOOP_START)
        behind = 1 - (1 - LOOP_ALPHA) * t / LOOP_END
        return torch.where(t > LOOP_START, before, torch.where(t > LOOP_END, LOOP_ALPHA, behind))

    def sigma(self, alpha_t: torch.Tensor, alpha_s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The probability of being masked again, of t's shape; for `"conf"` their sum over a row."""
        rate = _DEFAULT_RATES[self.remasking] if self.remasking_rate is None else self.remasking_rate
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1.0)  # all positions are masked at alpha = 0
        if self.remasking == "rescale":
            return rate * most
        capped = most.clamp(max=rate)
        if self.remasking == "loop":
            return torch.where((t > LOOP_END) & (t <= LOOP_START), capped, 0.0)
        return capped

    @staticmethod
    def _shares(draft: Draft, written: torch.Tensor) -> torch.Tensor:
        """(B, L): softmax of minus the confidences over each row's written positions; 0 elsewhere."""
        scores = (-draft.confidence).masked_fill(~written, -torch.inf)
        return scores.softmax(-1).nan_to_num(0.0)  # a row without a written position
