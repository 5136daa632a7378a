"""95 % intervals over stories and over seeds, and of differences paired by prompt (docs/formulas.md, Intervals).

Means are bootstrapped over stories. Counts of distinct things are not, as resampling makes duplicates: `metrics/diversity`
has their intervals. Over a few seeds Student's t is used: three values, resampled, give an
interval that contains the true value only three times in four.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Numbers = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """An estimate and its 95 % interval, which holds it."""

    estimate: float
    low: float
    high: float


def mean_interval(values: Numbers, seed: int = 0, resamples: int = 1000) -> Interval:
    """Of the mean of one value a story, bootstrapped over stories."""
    return ratio_interval(values, np.ones(len(values)), seed, resamples)


def ratio_interval(values: Numbers, weights: Numbers, seed: int = 0, resamples: int = 1000) -> Interval:
    """Of sum(values) / sum(weights), such as nats a token of a corpus, bootstrapped over stories.

    Raises ValueError for fewer than two stories, numbers of values and weights that differ, or weights without a sum.
    """
    over, under = _column("values", values), _column("weights", weights)
    if len(over) != len(under) or not under.sum() > 0:
        raise ValueError(f"weights: {len(under)} for {len(over)} values, sum {under.sum()}; give one a story")
    rng = np.random.default_rng([seed, 7])
    estimates = np.empty(resamples)
    for index in range(resamples):
        chosen = rng.integers(len(over), size=len(over))
        estimates[index] = over[chosen].sum() / max(under[chosen].sum(), 1e-300)
    return _holding(float(over.sum() / under.sum()), *np.percentile(estimates, [2.5, 97.5]))


def paired_interval(first: Numbers, second: Numbers, seed: int = 0) -> Interval:
    """Of mean(first - second), the two values of a pair from the same prompt; bootstrapped over prompts."""
    minuend, subtrahend = _column("first", first), _column("second", second)
    if len(minuend) != len(subtrahend):
        raise ValueError(
            f"first has {len(minuend)} values and second {len(subtrahend)}: paired values need the same prompts"
        )
    return mean_interval(minuend - subtrahend, seed)


def seeds_interval(estimates: Numbers) -> Interval:
    """Of the mean of one estimate a seed (of training), by Student's t: it holds the noise of the stories as well.

    Differences of two arms at the same seed are given as one estimate a seed. Raises ValueError below two seeds.
    """
    values = _column("estimates", estimates)
    half = stats.t.ppf(0.975, len(values) - 1) * float(values.std(ddof=1)) / np.sqrt(len(values))
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """`seeds_interval` as a report has it: `estimate`, `low`, `high`; of one seed without ends (None)."""
    if len(values) == 1:
        return {"estimate": values[0], "low": None, "high": None}
    return seeds_interval(values)._asdict()


def _column(name: str, values: Numbers) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) < 2:
        raise ValueError(f"{name} of shape {column.shape} must be at least two numbers")
    return column


def _holding(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, min(estimate, float(low)), max(estimate, float(high)))
