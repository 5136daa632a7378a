"""How many steps a sampler needs: thresholds on a grid of steps, their growth with length, and intervals of both."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arche_mdlm.studies.engine.intervals import seeds_interval

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


def token_steps(nats: Mapping[int, float]) -> Steps:
    """Steps from which on token perplexity is within `TOLERANCE` of its value at the most steps; nats a token by steps."""
    limit = nats[max(nats)]
    return steps_needed({steps: abs(math.expm1(value - limit)) - TOLERANCE for steps, value in nats.items()})


def sequence_steps(share: Mapping[int, float]) -> Steps:
    """Steps from which on at most `HALF` of the sequences are impossible; their share by steps."""
    return steps_needed({steps: value - HALF for steps, value in share.items()})


def exponent(steps: Mapping[int, float]) -> float:
    """b of steps = a L^b, by least squares of the logarithms; steps by length."""
    lengths = np.log([float(length) for length in steps])
    return float(np.polyfit(lengths, np.log(list(steps.values())), 1)[0])


MEASURES = {"token": ("nats", token_steps), "sequence": ("forbidden", sequence_steps)}


def means(cells: Cells, key: str) -> dict[int, float]:
    return {steps: float(np.mean(cell[key])) for steps, cell in cells.items()}


def needed(cells: Cells, measure: str) -> Steps:
    """By the means over all texts."""
    key, rule = MEASURES[measure]
    return rule(means(cells, key))


def growth_over_texts(by_length: Mapping[int, Cells], measure: str, seed: int = 0) -> dict:
    """Steps needed by length, and their exponent, with 95 % intervals by a bootstrap over texts."""
    key, rule = MEASURES[measure]
    rng = np.random.default_rng([seed, 17])
    drawn: dict[int, list[Steps]] = {}
    for length, cells in by_length.items():
        resampled = {}
        for steps, cell in cells.items():
            values = np.asarray(cell[key], dtype=np.float64)
            resampled[steps] = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(-1)
        drawn[length] = [rule({steps: v[index] for steps, v in resampled.items()}) for index in range(_RESAMPLES)]
    point = {length: needed(cells, measure) for length, cells in by_length.items()}
    found: dict = {"steps": {}}
    for length, estimate in point.items():
        low, high = np.percentile([one.value for one in drawn[length]], [2.5, 97.5])
        found["steps"][str(length)] = {"estimate": estimate.value, "bound": estimate.bound,
                                       "low": min(estimate.value, float(low)), "high": max(estimate.value, float(high))}  # fmt: skip
    bounds = [one.bound for own in drawn.values() for one in own]
    if len(point) < 2:
        return found | _exponent(point, (None, None), bounds)
    slopes = [exponent({length: drawn[length][index].value for length in point}) for index in range(_RESAMPLES)]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return found | _exponent(point, (float(low), float(high)), bounds)


def growth_over_seeds(by_seed: Sequence[Mapping[int, Cells]], measure: str) -> dict:
    """Steps needed by length, and their exponent: means over seeds of training, with 95 % intervals by Student's t.

    Of a single seed there is no interval.
    """
    points = [{length: needed(cells, measure) for length, cells in one.items()} for one in by_seed]
    lengths = sorted(set.intersection(*(set(one) for one in points)))
    found: dict = {"steps": {}}
    for length in lengths:
        values = [one[length].value for one in points]
        own_bounds = sorted({one[length].bound for one in points} - {""}, reverse=True)
        estimate, low, high = _over_seeds(values)
        found["steps"][str(length)] = {"estimate": estimate, "bound": own_bounds[0] if own_bounds else "", "low": low, "high": high,
                                       "seeds": values}  # fmt: skip
    own = [{length: one[length] for length in lengths} for one in points]
    bounds = [steps.bound for one in own for steps in one.values()]
    if len(lengths) < 2:
        return found | _exponent(own[0], (None, None), bounds)
    slopes = [exponent({length: steps.value for length, steps in one.items()}) for one in own]
    estimate, low, high = _over_seeds(slopes)
    return found | _exponent(own[0], (low, high), bounds) | {"exponent": estimate, "seeds": slopes}


def _over_seeds(values: list[float]) -> tuple[float, float | None, float | None]:
    return (values[0], None, None) if len(values) == 1 else seeds_interval(values)


def _exponent(point: Mapping[int, Steps], interval: tuple[float | None, float | None], bounds: Sequence[str]) -> dict:
    """`exponent` with `low` and `high`, None where there is none; `not_reached`: some number of steps is a lower bound."""
    if len(point) < 2:
        return {"exponent": None, "low": None, "high": None, "not_reached": "more than" in bounds}
    value = exponent({length: steps.value for length, steps in point.items()})
    return {"exponent": value, "low": interval[0], "high": interval[1], "not_reached": "more than" in bounds}
