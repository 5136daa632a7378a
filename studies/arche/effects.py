"""What each choice of the paper's protocol does to a figure, from the 2 x 2 x 2 cells of an arm."""

import math
from typing import Any

from arche_mdlm.studies.arche.factors import FACTORS, LABELS, LAYOUTS, LENGTHS, NAMES
from arche_mdlm.studies.engine.readings import intervals
from arche_mdlm.studies.engine.readings.decisions import Comparison, decide, note, over_seeds

OPENINGS = "distinct_openings"


def effects(cells: list[dict], arm: str, figure: str) -> list[dict]:
    """By factor: how much higher the figure is at the paper's level than at the other one.

    `mean` over the cells of the other two factors, `low` and `high` the least and the most of them. A factor of which
    a cell is missing is left out.
    """
    values = {
        (c["layout"], c["length"], c["variant"]): c["figures"][figure]
        for c in cells
        if c["arm"] == arm and c["figures"]
    }
    found = []
    for place, (factor, paper, other) in enumerate(FACTORS[arm]):
        differences = []
        for key, value in values.items():
            partner = (*key[:place], other, *key[place + 1 :])
            if key[place] == paper and partner in values:
                differences.append(value - values[partner])
        if len(differences) == 4:
            found.append({"factor": factor, "paper": paper, "other": other, "mean": sum(differences) / 4,
                          "low": min(differences), "high": max(differences)})  # fmt: skip
    return found


def contrasts(cells: list[dict], figure: str) -> list[dict]:
    """By layout and length: MDLM minus AR under the paper's choices ("Once" forced, penalty), and under neither of them."""
    values = {(c["arm"], c["layout"], c["length"], c["variant"]): c["figures"][figure] for c in cells if c["figures"]}
    found = []
    for layout in LAYOUTS:
        for length in LENGTHS:
            entry: dict[str, Any] = {"layout": layout, "length": length}
            for name, variants in (("paper", ("penalty", "once")), ("alike", ("plain", "free"))):
                both = [
                    values.get((arm, layout, length, own)) for arm, own in zip(("mdlm", "ar"), variants, strict=True)
                ]
                entry[name] = _beside(*both)
            found.append(entry)
    return found


def _beside(mdlm: float | None, ar: float | None) -> dict[str, float] | None:
    return None if mdlm is None or ar is None else {"mdlm": mdlm, "ar": ar, "difference": mdlm - ar}


def sentences(cells: list[dict]) -> list[str]:
    """What each of the paper's choices does to the share of distinct openings, an arm a line, as far as the intervals decide it:
    which choices move it, and which moves it most to where the paper has it, AR's low and MDLM's high."""
    signs = decide(comparisons(cells))
    return [*decided_sentences(cells), note(signs)] if signs else []


def decided_sentences(cells: list[dict]) -> list[str]:
    """As `sentences`, without how many comparisons that took; empty where nothing is decided."""
    signs = decide(comparisons(cells))
    lines = []
    for arm, name in NAMES.items():
        found = [effect for effect in effects(cells, arm, OPENINGS) if signs.get((arm, effect["factor"], ""))]
        parts = [f"{LABELS[e['paper']]} instead of {LABELS[e['other']]} {e['mean']:+.1%} ({e['low']:+.1%} to {e['high']:+.1%})"
                 for e in found]  # fmt: skip
        if not found:
            continue
        direction = -1 if arm == "ar" else 1
        most = [e for e in found if direction * e["mean"] > 0 and all(
            _sign(signs, arm, e["factor"], other) == direction
            for other, _, _ in FACTORS[arm] if other != e["factor"])]  # fmt: skip
        last = f" What {'lowers' if arm == 'ar' else 'raises'} it most is {LABELS[most[0]['paper']]}." if most else ""
        lines.append(
            f"**{name}**, distinct openings, mean over the other factors (least to most): {'; '.join(parts)}.{last}"
        )
    return lines


def _sign(signs: dict, arm: str, factor: str, other: str) -> int:
    """Of the first factor's effect minus the other's."""
    own = signs.get((arm, factor, other))
    return own if own is not None else -signs[arm, other, factor]


def comparisons(cells: list[dict]) -> dict[tuple[str, str, str], Comparison]:
    """Each factor's effect on distinct openings, and each pair's difference; without an arm that has a missing or a marked cell.

    An effect is a sum of the cells' figures with signs, over 4. Intervals are over seeds where there are several, each with its own
    models and texts; else over the texts of the cells, which are independent sets.
    """
    found: dict[tuple[str, str, str], Comparison] = {}
    for arm in NAMES:
        own = [c for c in cells if c["arm"] == arm and c["figures"]]
        if any(c.get("poor") for c in own) or len(effects(cells, arm, OPENINGS)) < len(FACTORS[arm]):
            continue
        signs = {factor: [1 if c[factor] == paper else -1 for c in own] for factor, paper, _ in FACTORS[arm]}
        for factor, weights in signs.items():
            found[arm, factor, ""] = _weighted(own, weights)
            for other in signs:
                if other != factor and (arm, other, factor) not in found:
                    difference = [a - b for a, b in zip(weights, signs[other], strict=True)]
                    found[arm, factor, other] = _weighted(own, difference)
    return found


def _weighted(cells: list[dict], weights: list[int]) -> Comparison:
    if any(len(c.get("seeds", {})) > 1 for c in cells):
        return _by_seed(cells, weights)
    estimate = sum(w * c["figures"][OPENINGS] for w, c in zip(weights, cells, strict=True)) / 4
    halves = [w * (c["figures"][f"{OPENINGS}_ci"][1] - c["figures"][f"{OPENINGS}_ci"][0]) / 2 / 4
              for w, c in zip(weights, cells, strict=True)]  # fmt: skip
    half = math.sqrt(sum(h * h for h in halves))
    return Comparison({"estimate": estimate, "low": estimate - half, "high": estimate + half})


def _by_seed(cells: list[dict], weights: list[int]) -> Comparison:
    """Over the seeds of which every cell is there."""
    seeds = [seed for seed in cells[0]["seeds"] if all(c["seeds"].get(seed) for c in cells)]
    values = [sum(w * c["seeds"][seed][OPENINGS] for w, c in zip(weights, cells, strict=True)) / 4 for seed in seeds]
    return over_seeds(intervals.over_seeds(values), len(values)) if len(values) > 1 else Comparison(None)
