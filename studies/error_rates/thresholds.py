"""How many steps a sampler needs: thresholds on a grid of steps, their growth with length, and intervals of both."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arche_mdlm.studies.engine.readings.intervals import over_seeds

TOLERANCE = 0.05  # of token perplexity from its limit
HALF = 0.5  # share of sequences that the language cannot produce
FLAT = 0.25  # an exponent within -FLAT and FLAT is flat: a doubled length costs at most 1.19 times the steps
_RESAMPLES = 400

Cells = Mapping[int, Mapping[str, Sequence[float]]]  # by number of steps: `nats` and `forbidden` of each text


class Steps(NamedTuple):
    """Steps needed, and whether that is only a bound: "at most" the fewest steps, "more than" the most."""

    value: float
    bound: str = ""


def steps_needed(excess: Mapping[int, float]) -> Steps:
    """Where `excess`, by number of steps, falls to 0 for good; interpolated on a logarithmic scale of steps."""
    grid = sorted(excess)
    above = [index for index, steps in enumerate(grid) if excess[steps] > 0]
    if not above:
        return Steps(float(grid[0]), "at most")
    if above[-1] == len(grid) - 1:
        return Steps(float(grid[-1]), "more than")
    low, high = grid[above[-1]], grid[above[-1] + 1]
    share = excess[low] / (excess[low] - excess[high])
    return Steps(float(math.exp(math.log(low) + share * (math.log(high) - math.log(low)))))


def token_steps(nats: Mapping[int, float], limit: float | None = None) -> Steps:
    """Steps from which on token perplexity is within `TOLERANCE` of its limit; nats a token by steps.

    Args:
        limit: nats a token in the limit of many steps; default: those at the most steps.
    """
    bound = nats[max(nats)] if limit is None else limit
    return steps_needed({steps: abs(math.expm1(value - bound)) - TOLERANCE for steps, value in nats.items()})


def sequence_steps(share: Mapping[int, float]) -> Steps:
    """Steps from which on at most `HALF` of the sequences are impossible; their share by steps."""
    return steps_needed({steps: value - HALF for steps, value in share.items()})


def exponent(steps: Mapping[int, float]) -> float:
    """b of steps = a L^b, by least squares of the logarithms; steps by length."""
    lengths = np.log([float(length) for length in steps])
    return float(np.polyfit(lengths, np.log(list(steps.values())), 1)[0])


KEYS = {"token": "nats", "sequence": "forbidden"}


def means(cells: Cells, key: str) -> dict[int, float]:
    return {steps: float(np.mean(cell[key])) for steps, cell in cells.items()}


def needed(values: Mapping[int, float], measure: str, limit: float | None = None) -> Steps:
    """By the mean over texts of a measure, "token" or "sequence", by steps."""
    return token_steps(values, limit) if measure == "token" else sequence_steps(values)


def growth_over_texts(by_length: Mapping[int, Cells], measure: str, limits: Mapping[int, float] | None = None) -> dict:
    """Steps needed by length and their exponents, with 95 % intervals by a bootstrap over texts.

    Args:
        limits: nats a token in the limit of many steps, by length; see `token_steps`.
    """
    rng = np.random.default_rng(17)
    point, drawn = {}, {}
    for length in sorted(by_length):
        cells, limit = by_length[length], (limits or {}).get(length)
        point[length] = needed(means(cells, KEYS[measure]), measure, limit)
        resampled = {}
        for steps, cell in cells.items():
            values = np.asarray(cell[KEYS[measure]], dtype=np.float64)
            resampled[steps] = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(-1)
        drawn[length] = [
            needed({n: float(v[i]) for n, v in resampled.items()}, measure, limit) for i in range(_RESAMPLES)
        ]
    found = {}
    for length, estimate in point.items():
        low, high = np.percentile([one.value for one in drawn[length]], [2.5, 97.5])
        found[str(length)] = {"estimate": estimate.value, "bound": estimate.bound,
                              "low": min(estimate.value, float(low)), "high": max(estimate.value, float(high))}  # fmt: skip
    never = {length for length in point if _never(point[length], drawn[length])}

    def over(lengths: list[int]) -> dict:
        if len(lengths) < 2:
            return _no_exponent(lengths, never)
        slopes = [exponent({length: drawn[length][i].value for length in lengths}) for i in range(_RESAMPLES)]
        low, high = (float(end) for end in np.percentile(slopes, [2.5, 97.5]))
        value = exponent({length: point[length].value for length in lengths})
        return {"exponent": value, "low": min(low, value), "high": max(high, value), "lengths": lengths,
                "not_reached": bool(never & set(lengths))}  # fmt: skip

    return {"steps": found, "all": over(list(point)), "longest": over(list(point)[-2:])}


def _never(point: Steps, drawn: Sequence[Steps]) -> bool:
    """Whether not even the most steps are enough, or that cannot be excluded."""
    return point.bound == "more than" or sum(one.bound == "more than" for one in drawn) > 0.025 * len(drawn)


def growth_over_seeds(by_seed: Sequence[Mapping[int, Cells]], measure: str) -> dict:
    """Steps needed by length and their exponents: means over seeds of training, with 95 % intervals by Student's t.

    A single seed gives no interval. Lengths that some seed lacks are left out.
    """
    points = [{n: needed(means(cells, KEYS[measure]), measure) for n, cells in one.items()} for one in by_seed]
    lengths = sorted(set.intersection(*(set(one) for one in points)))
    found = {}
    for length in lengths:
        own = [one[length] for one in points]
        bounds = sorted({one.bound for one in own} - {""}, reverse=True)
        values = [one.value for one in own]
        found[str(length)] = over_seeds(values) | {"bound": bounds[0] if bounds else "", "seeds": values}
    never = {length for length in lengths if found[str(length)]["bound"] == "more than"}

    def over(lengths: list[int]) -> dict:
        if len(lengths) < 2:
            return _no_exponent(lengths, never)
        slopes = [exponent({length: one[length].value for length in lengths}) for one in points]
        mean = over_seeds(slopes)
        return {"exponent": mean["estimate"], "low": mean["low"], "high": mean["high"], "lengths": lengths, "seeds": slopes,
                "not_reached": bool(never & set(lengths))}  # fmt: skip

    return {"steps": found, "all": over(lengths), "longest": over(lengths[-2:])}


def _no_exponent(lengths: list[int], never: set[int]) -> dict:
    return {"exponent": None, "low": None, "high": None, "lengths": lengths, "not_reached": bool(never & set(lengths))}
