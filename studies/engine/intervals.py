"""95 % intervals over stories and over seeds, and of differences paired by prompt (docs/formulas.md, Intervals).

Means are bootstrapped over stories. Counts of distinct things are not, as resampling makes duplicates: `metrics/diversity`
has their intervals. Over a few seeds Student's t is used: three values, resampled, give an
interval that contains the true value only three times in four.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """An estimate and its 95 % interval, which holds it."""

    estimate: float
    low: float
    high: float


def mean_interval(values: Sequence[float], seed: int = 0, resamples: int = 1000) -> Interval:
    """Of the mean of one value a story, bootstrapped over stories."""
    return ratio_interval(values, np.ones(len(values)), seed, resamples)


def ratio_interval(values: Sequence[float], weights: Sequence[float], seed: int = 0, resamples: int = 1000) -> Interval:
    """Of sum(values) / sum(weights), such as nats a token of a corpus, bootstrapped over stories.

    Raises ValueError for fewer than two stories, numbers of values and weights that differ, or weights without a sum.
    """
    values, weights = _column("values", values), _column("weights", weights)
    if len(values) != len(weights) or not weights.sum() > 0:
        raise ValueError(f"weights: {len(weights)} for {len(values)} values, sum {weights.sum()}; give one a story")
    rng = np.random.default_rng([seed, 7])
    estimates = np.empty(resamples)
    for index in range(resamples):
        chosen = rng.integers(len(values), size=len(values))
        estimates[index] = values[chosen].sum() / max(weights[chosen].sum(), 1e-300)
    return _holding(float(values.sum() / weights.sum()), *np.percentile(estimates, [2.5, 97.5]))


def paired_interval(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval:
    """Of mean(first - second), the two values of a pair from the same prompt; bootstrapped over prompts."""
    first, second = _column("first", first), _column("second", second)
    if len(first) != len(second):
        raise ValueError(f"first has {len(first)} values and second {len(second)}: paired values need the same prompts")
    return mean_interval(first - second, seed)


def seeds_interval(estimates: Sequence[float]) -> Interval:
    """Of the mean of one estimate a seed (of training), by Student's t: it holds the noise of the stories as well.

    Differences of two arms at the same seed are given as one estimate a seed. Raises ValueError below two seeds.
    """
    values = _column("estimates", estimates)
    half = stats.t.ppf(0.975, len(values) - 1) * float(values.std(ddof=1)) / np.sqrt(len(values))
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)


def _column(name: str, values: Sequence[float]) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) < 2:
        raise ValueError(f"{name} of shape {column.shape} must be at least two numbers")
    return column


def _holding(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, min(estimate, float(low)), max(estimate, float(high)))
