"""What each choice of the paper's protocol does to a figure, from the 2 x 2 x 2 cells of an arm."""

from typing import Any

from arche_mdlm.studies.arche.factors import FACTORS, LABELS, LAYOUTS, LENGTHS


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


def sentence(cells: list[dict], arm: str, name: str) -> str:
    """Which of the paper's choices moves the share of distinct openings most to where the paper has it: AR's low, MDLM's high."""
    found = effects(cells, arm, "distinct_openings")
    if not found:
        return ""
    direction = -1 if arm == "ar" else 1
    most = max(found, key=lambda effect: direction * effect["mean"])
    parts = [f"{LABELS[e['paper']]} instead of {LABELS[e['other']]} {e['mean']:+.1%} ({e['low']:+.1%} to {e['high']:+.1%})"
             for e in found]  # fmt: skip
    return (
        f"**{name}**, distinct openings, mean over the other factors (least to most): {'; '.join(parts)}. "
        f"What {'lowers' if arm == 'ar' else 'raises'} it most is {LABELS[most['paper']]}."
    )
