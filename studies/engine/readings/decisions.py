"""Which comparisons of a report are decided, so that it prints no sentence that its intervals do not carry.

A report looks at many comparisons. Each gets the p-value of "no difference" that its interval stands for, and Holm's method
(Holm 1979) takes all of them together: where nothing differs, at most one report in twenty says that something does.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import special, stats

LEVEL = 0.05  # of all comparisons of a report together
Key = TypeVar("Key", bound=Hashable)


class Comparison(NamedTuple):
    """A difference and its 95 % interval.

    Args:
        interval: `estimate`, `low`, `high`; None, or without ends, if it is missing: never decided.
        freedom: degrees of freedom behind it; None: many.
        student: whether its ends are Student's t's of these, as over seeds; else they are those of a normal law or a bootstrap.
    """

    interval: Mapping[str, float | None] | None
    freedom: float | None = None
    student: bool = False


def over_seeds(interval: Mapping[str, float | None] | None, seeds: int) -> Comparison:
    """Of an interval of `seeds_interval`."""
    return Comparison(interval, seeds - 1, student=True)


def apart(first: Mapping[str, Any], second: Mapping[str, Any], name: str, log: bool = False) -> Comparison:
    """Of two figures with `NAME_ci`, first minus second: decided only where the two intervals lie apart.

    `log`: of positive figures, such as perplexities, the difference of logarithms.
    """
    known = [[own.get(name), *(own.get(f"{name}_ci") or (None, None))] for own in (first, second)]
    numbers = [value for own in known for value in own]
    if not all(value is not None and math.isfinite(value) and (value > 0 or not log) for value in numbers):
        return Comparison(None)
    (one, low, high), (other, other_low, other_high) = ([math.log(v) if log else v for v in own] for own in known)
    return Comparison({"estimate": one - other, "low": low - other_high, "high": high - other_low})


def ratio_of_rates(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Of two sets of timed calls with their `rates`: the logarithm of first over second, by Welch's t."""
    logs = [np.log(own.get("rates") or []) for own in (first, second)]
    if min(map(len, logs)) < 2:
        return Comparison(None)
    variances = [own.var(ddof=1) / len(own) for own in logs]
    estimate, total = float(logs[0].mean() - logs[1].mean()), sum(variances)
    if total == 0:
        return Comparison(None)
    freedom = total**2 / sum(v**2 / (len(own) - 1) for v, own in zip(variances, logs, strict=True))
    half = float(stats.t.ppf(0.975, freedom) * math.sqrt(total))
    return Comparison({"estimate": estimate, "low": estimate - half, "high": estimate + half}, freedom, student=True)


def p_value(comparison: Comparison) -> float:
    """Two-sided, of no difference: Student's or the normal law's, with the standard error of the side of the interval towards 0.

    1 without an interval, and for one without width: values that do not vary say nothing of how they would.
    """
    interval, freedom, student = comparison
    if interval is None:
        return 1.0
    estimate, low, high = (interval[key] for key in ("estimate", "low", "high"))
    if estimate is None or low is None or high is None:
        return 1.0
    side = estimate - low if estimate > 0 else high - estimate
    if not side > 0:
        return 1.0
    # scipy.special, as scipy.stats takes a hundred times as long and reports look at many comparisons
    quantile = special.stdtrit(freedom, 0.975) if student and freedom is not None else special.ndtri(0.975)
    errors = -abs(estimate) / (side / quantile)
    return float(2 * (special.ndtr(errors) if freedom is None else special.stdtr(freedom, errors)))


def decide(comparisons: Mapping[Key, Comparison], level: float = LEVEL) -> dict[Key, int]:
    """The sign of each difference that is decided, 0 of all others.

    Holm: by rising p-value, until the i-th of m is above level / (m - i + 1). Comparisons without an interval count too: they
    were looked at.
    """
    p_values = {key: p_value(one) for key, one in comparisons.items()}
    signs = dict.fromkeys(comparisons, 0)
    for place, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        interval = comparisons[key].interval
        if p_values[key] > level / (len(p_values) - place) or interval is None:
            break
        signs[key] = 1 if (interval["estimate"] or 0) > 0 else -1
    return signs


def note(signs: Mapping[Any, int]) -> str:
    """How many comparisons were looked at, and how many of them are decided."""
    decided = sum(sign != 0 for sign in signs.values())
    return (
        f"Of {len(signs)} comparisons that this report looks at, {decided} are decided (Holm's correction: where nothing differs, a report says "
        "that something does in at most 5 of 100 cases). The report makes no statement about the others. The intervals in brackets are 95 % each, "
        "without this correction."
    )
