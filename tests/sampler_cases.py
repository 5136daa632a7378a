"""The table of samplers with their enumerated distributions, for the tests of samplers."""

from dataclasses import dataclass, field

import torch
from oracles import laws

from arche_mdlm.canvas_mdlm import Draft
from arche_mdlm.prediction_mdlm import Prediction

BOS, EOS, PAD, MASK = range(4)


ENOUGH = 1e-3


@dataclass(frozen=True)
class Case:
    """A sampler with settings, and its exact law over a language's sequences at a number of steps (None: see `sets_own_pace`)."""

    sampler: str
    law: object
    steps: tuple = (1, 2, 3)
    settings: dict = field(default_factory=dict)

    def __str__(self):
        return "-".join([self.sampler, *map(str, self.settings.values())])


def even_shares(length: int, steps: int | None) -> list[int]:
    """How many positions each step fills, shared out from above; those that fill none are left out."""
    shares, left = [], length
    for step in range(steps or length):
        share = -(-left // ((steps or length) - step))
        shares, left = [*shares, share], left - share
    return [share for share in shares if share]


def in_shares(score):
    return lambda language, steps: laws.scored_law(language, even_shares(language.length, steps), score)


def ancestral_law(language, steps):
    return laws.ancestral_law(language, [1 - step / steps for step in range(steps + 1)])


def random_groups(language, steps):
    return laws.parallel_law(language, even_shares(language.length, steps))


def remasking(sigma, alpha=lambda t: 1 - t):
    """The law of ReMDM with the same sigma for all tokens, from its definition."""

    def law(language, steps):
        grid = [1 - step / steps for step in range(steps + 1)]

        def rates(k):
            a, b = alpha(grid[k]), alpha(grid[k + 1])
            most = min(1.0, (1 - b) / a) if a > 0 else 1.0
            remask = sigma(most, grid[k])
            return (b - (1 - remask) * a) / (1 - a), remask if k else 0.0

        return laws.remasking_law(language, steps, lambda k: rates(k)[0], lambda k: rates(k)[1])

    return law


def loop_alpha(t):
    return 0.9 * (1 - t) / 0.45 if t > 0.55 else 0.9 if t > 0.05 else 1 - 0.1 * t / 0.05


def at_least(threshold):
    def law(language, steps):
        shares = even_shares(language.length, steps)
        return laws.scored_law(language, [lambda ranked, n=n: (ranked >= threshold).sum(-1).clamp(min=n) for n in shares],
                               laws.confidence)  # fmt: skip

    return law


def factor(f):
    def count(ranked):
        n = torch.arange(1, ranked.shape[-1] + 1)
        return ((n + 1) * (1 - ranked) < f).sum(-1).clamp(min=1)

    return lambda language, steps: laws.scored_law(language, [count] * language.length, laws.confidence)


def entropies_within(bound):
    def count(ranked):
        entropies = -ranked
        return torch.stack([(entropies[:, : n + 1].sum(-1) - entropies[:, n] <= bound) & entropies[:, n].isfinite()
                            for n in range(ranked.shape[-1])], -1).sum(-1)  # fmt: skip

    return lambda language, steps: laws.scored_law(language, [count] * language.length, laws.entropy)


CASES = [
    Case("ancestral", ancestral_law, steps=(1, 2, 3, 8)),
    Case("first_hitting", random_groups, steps=(1, 2, 3, 9, None)),
    Case("confidence", in_shares(laws.confidence), steps=(1, 2, 3, 9)),
    Case("margin", in_shares(laws.margin), steps=(1, 2, 3, 9)),
    Case("entropy", in_shares(laws.entropy), steps=(1, 2, 3, 9)),
    Case("threshold", at_least(0.6), steps=(1, 2, 3, None), settings={"threshold": 0.6}),
    Case("threshold", factor(1.2), steps=(3, None), settings={"threshold_factor": 1.2}),
    Case("entropy_bound", entropies_within(0.9), steps=(3, None), settings={"entropy_bound": 0.9}),
    Case("remdm", remasking(lambda most, t: min(0.3, most)), (1, 2, 4, 8), {"remasking": "cap", "remasking_rate": 0.3}),
    Case("remdm", remasking(lambda most, t: 0.5 * most), (2, 8), {"remasking": "rescale", "remasking_rate": 0.5}),
    Case(
        "remdm",
        remasking(lambda most, t: min(0.4, most) if 0.05 < t <= 0.55 else 0.0, loop_alpha),
        (2, 8),
        {"remasking": "loop", "remasking_rate": 0.4},
    ),
    # Only the language itself, with one position: its own tests are below.
    Case("remdm", None, (), {"remasking": "conf"}),
    Case("arche", None, ()),
]


def times(t: float, s: float, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((rows, 1), t, dtype=torch.float64), torch.full((rows, 1), s, dtype=torch.float64)


def make_draft(tokens, confidence=None, fillable=None):
    masked = tokens == MASK
    fillable = masked if fillable is None else fillable.expand(tokens.shape)
    confidence = torch.zeros(tokens.shape, dtype=torch.float64) if confidence is None else confidence
    return Draft(tokens, masked, fillable, confidence, MASK)


class FixedPredictor:
    """A predictor that runs no model: `logits_of(where)` (N, V) of the asked positions, in two parts."""

    def __init__(self, logits_of):
        self.logits_of = logits_of

    def logits(self, rows, block, t, where, times):
        logits = self.logits_of(where)
        half = (len(logits) + 1) // 2
        parts = [slice(0, half), slice(half, len(logits))]
        return [(logits[part], logits[part], part) for part in parts if part.start < part.stop]


def predict_from(logits_of) -> Prediction:
    return Prediction(FixedPredictor(logits_of), None, None, None)
