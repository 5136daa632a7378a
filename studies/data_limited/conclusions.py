"""What the study of few unique tokens says, in sentences; `readings.decisions` says which comparisons are decided."""

from collections.abc import Mapping

from arche_mdlm.studies.data_limited.summary import ARMS
from arche_mdlm.studies.engine.markdown import interval_cell
from arche_mdlm.studies.engine.readings.decisions import Comparison, decide, over_seeds

LABELS = {"ar": "AR", "mdlm": "MDLM"}
Key = tuple[str, str, str]  # question, unique tokens, arm


def comparisons(report: dict) -> dict[Key, Comparison]:
    """All that is looked at, by question, number of unique tokens and arm. A question is asked of every size, whatever is missing."""
    found: dict[Key, Comparison] = {}
    for size, own in report["sizes"].items():
        exact, seeds = own["left_to_right"], len(own["seeds"])
        found["bound", size, ""] = over_seeds(own["difference"], seeds)
        found["left to right", size, ""] = over_seeds(exact["difference"], exact["seeds"])
        for arm in ARMS:
            course = own["course"].get(arm, {})
            found["rise", size, arm] = over_seeds(course.get("rise"), seeds)
            found["endings", size, arm] = over_seeds(course.get("endings_change"), seeds)
    return found


def sentences(report: dict) -> list[str]:
    """Only what is decided; empty where nothing is."""
    signs = decide(comparisons(report))
    lines = []
    for size, own in report["sizes"].items():
        lines += [*_bound(size, own, signs), *_left_to_right(size, own, signs)]
        for arm in ARMS:
            lines += _course(size, arm, own, signs)
    return lines


def _bound(size: str, own: dict, signs: Mapping[Key, int]) -> list[str]:
    said = {
        -1: "MDLM's best bound is below tuned AR's best loss, and so is its own loss",
        1: "MDLM's best bound stays above tuned AR's best loss, of which nothing follows for its own loss",
    }
    sign = signs["bound", size, ""]
    return [f"{_with(size)} {said[sign]}: {interval_cell(own['difference'], '+.4f')} nats a token."] if sign else []


def _left_to_right(size: str, own: dict, signs: Mapping[Key, int]) -> list[str]:
    said = {-1: "is below tuned AR's NLL", 1: "stays above tuned AR's NLL"}
    sign, difference = signs["left to right", size, ""], own["left_to_right"]["difference"]
    if not sign:
        return []
    return [f"{_with(size)} MDLM's exact NLL, written from left to right, {said[sign]} of the same rows: "
            f"{interval_cell(difference, '+.4f')} nats a token."]  # fmt: skip


def _course(size: str, arm: str, own: dict, signs: Mapping[Key, int]) -> list[str]:
    """From the best held-out loss to the last evaluation: the loss, and the endings that are told from corrupted ones."""
    rise, change = signs["rise", size, arm], signs["endings", size, arm]
    parts = [f"{label} changes by {interval_cell(own['course'][arm][key], style)}"
             for sign, label, key, style in ((rise, "the held-out loss", "rise", "+.4f"),
                                             (change, "the share of true endings that are likelier", "endings_change", "+.3f"))
             if sign]  # fmt: skip
    if not parts:
        return []
    follows = {-1: " So a rising loss goes with worse endings.", 1: " So a rising loss does not go with worse endings."}
    line = f"{_with(size)} from {LABELS[arm]}'s best held-out loss to its last evaluation {' and '.join(parts)}."
    return [line + (follows[change] if rise > 0 and change else "")]


def _with(size: str) -> str:
    return f"With {int(size):,} unique tokens"


def crossings(report: dict) -> list[dict]:
    """Whether MDLM comes below tuned AR, a size at a time: `size`, the number of `seeds` in which its bound does (`bound`), the epochs at
    which it first does, in those, and the same of the likelihood from left to right (`exact_seeds`, `left_to_right`); `decided`: the
    signs of both differences, 0 where undecided."""
    signs = decide(comparisons(report))
    found = []
    for size, own in report["sizes"].items():
        ones = list(own["seeds"].values())
        below = [one for one in ones if one["difference"] < 0]
        exact = [one["left_to_right"] for one in ones if one["left_to_right"] is not None]
        found.append({
            "size": size, "seeds": len(ones), "bound": len(below), "exact_seeds": len(exact),
            "epochs": [one["crossed_at"]["epoch"] for one in below if one["crossed_at"] is not None],
            "left_to_right": sum(one["difference"] < 0 for one in exact),
            "decided": {question: signs[question, size, ""] for question in ("bound", "left to right")},
        })  # fmt: skip
    return found
