"""What the intervals decide on the two claims, after Holm's correction for all exponents of the report."""

from collections.abc import Hashable, Sequence
from typing import Any

from arche_mdlm.studies.engine.readings.decisions import Comparison, decide
from arche_mdlm.studies.error_rates.thresholds import FLAT

LEAST_WIDTH = 0.01  # to either side: where no resample differs, the texts still may
MEASURES, PARTS = ("token", "sequence"), ("all", "longest")


def comparisons(groups: Sequence[dict]) -> dict[Hashable, Comparison]:
    """Each exponent minus FLAT, and minus -FLAT: (number of the group, measure, part, limit)."""
    found: dict[Hashable, Comparison] = {}
    for number, group in enumerate(groups):
        for measure in MEASURES:
            for part in PARTS:
                for limit in (-FLAT, FLAT):
                    found[number, measure, part, limit] = _against(group[measure][part], limit)
    return found


def _against(growth: dict, limit: float) -> Comparison:
    ends = [growth[key] for key in ("exponent", "low", "high")]
    if growth["not_reached"] or None in ends:
        return Comparison(None)
    estimate, low, high = ends
    ends = [estimate, min(low, estimate - LEAST_WIDTH), max(high, estimate + LEAST_WIDTH)]
    interval = dict(zip(("estimate", "low", "high"), (end - limit for end in ends), strict=True))
    seeds = growth.get("seeds")  # else a bootstrap over texts
    return Comparison(interval, len(seeds) - 1, student=True) if seeds else Comparison(interval)


def with_verdicts(groups: Sequence[dict]) -> tuple[list[dict], dict[Hashable, int]]:
    """The groups with a `verdict` on each exponent, and the signs that were decided.

    "flat": above -FLAT and below FLAT; "grows": above FLAT; "falls": below -FLAT; else "not decided", or why there is no interval.
    """
    signs = decide(comparisons(groups))
    found = []
    for number, group in enumerate(groups):
        own: dict[str, Any] = dict(group)
        for measure in MEASURES:
            own[measure] = group[measure] | {
                part: growth | {"verdict": _verdict(growth, *(signs[number, measure, part, limit] for limit in (-FLAT, FLAT)))}
                for part, growth in group[measure].items() if part in PARTS
            }  # fmt: skip
        found.append(own)
    return found, signs


def _verdict(growth: dict, above_lower: int, above_upper: int) -> str:
    """By the signs of the exponent minus -FLAT and minus FLAT."""
    if growth["not_reached"]:
        return "not reached"
    if None in (growth["exponent"], growth["low"], growth["high"]):
        return "no interval"
    if above_upper > 0:
        return "grows"
    if above_lower < 0:
        return "falls"
    return "flat" if above_lower > 0 and above_upper < 0 else "not decided"
