"""Conclusions from the intervals of the controlled comparison, in sentences."""

import itertools
import math

from arche_mdlm.studies.controlled.summary import BASE, sample_key
from arche_mdlm.studies.engine.figures import FEW_JUDGED, FIGURES

MAIN = sample_key({"checkpoint": "best", "prompt": "bos", "temperature": 1.0})
FEW_TEXTS = 100
_PAPER_OPENINGS = (0.934, 0.033)  # MDLM and AR, arXiv 2603.22075
_MORE_IS_DIVERSE = {"distinct_2": 1, "distinct_4": 1, "self_bleu": -1, "vocabulary_size": 1, "distinct_openings": 1}


def conclusions(report: dict) -> list[str]:
    """One line a question; "not decided" where the intervals contain zero."""
    lines = []
    for column in report["arms"]:
        if column.startswith("mdlm"):
            lines += [*_likelihood(report, column), *_diversity(report, column), *_closeness(report, column)]
    return [
        *lines,
        *_frontier(report),
        *_openings(report),
        *_supervision(report),
        *_overfitting(report),
        *_caveats(report),
    ]


def sign(interval: dict | None) -> int:
    """1 or -1 where the interval excludes zero, else 0; also 0 with one seed, which lacks an interval."""
    if not interval or interval["low"] is None:
        return 0
    return int(interval["low"] > 0) - int(interval["high"] < 0)


def _shown(interval: dict, style: str = "+.3f") -> str:
    text = format(interval["estimate"], style)
    if interval["low"] is None:
        return f"{text} (one seed: no interval)"
    return f"{text} (95 % over seeds: {interval['low']:{style}} to {interval['high']:{style}})"


def _seeds(report: dict) -> str:
    return " (one seed has no interval)" if len(report["seeds"]) == 1 else ""


def _likelihood(report: dict, column: str) -> list[str]:
    group = report["differences"][column]["likelihood"].get("best")
    if not group:
        return []
    said = {
        1: "The bound lies above AR's exact value: MDLM gives the held-out stories less probability, or the bound is slack; a "
           "bound alone cannot tell which.",
        0: "The interval holds zero: no difference is shown.",
        -1: "Even its upper bound is below AR's exact value: MDLM is the better density model here.",
    }[sign(group["mean"])]  # fmt: skip
    if group["mean"]["low"] is None:
        said = "One seed has no interval: whether the seeds differ by more is not known."
    return [f"**{column}, likelihood**: NELBO minus AR's NLL is {_shown(group['mean'])} nats a token. {said}"]


def _diversity(report: dict, column: str) -> list[str]:
    figures = report["differences"][column]["samples"].get(MAIN, {})
    found: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for figure, direction in _MORE_IS_DIVERSE.items():
        if figure in figures:
            found[sign(figures[figure]["mean"]) * direction].append(FIGURES[figure].short)
    if not any(found.values()):
        return []
    parts = [f"{label} by {', '.join(found[sign])}" for sign, label in
             ((1, "more diverse than AR"), (-1, "less diverse"), (0, "not decided"))
             if found[sign]]  # fmt: skip
    return [f"**{column}, diversity** (same start, temperature 1.0): {'; '.join(parts)}{_seeds(report)}."]


def _closeness(report: dict, column: str) -> list[str]:
    """Compare with the diversity of held-out stories: higher is not always better."""
    figures = report.get("distances", {}).get(column, {}).get(MAIN, {})
    found: dict[int, list[str]] = {-1: [], 1: [], 0: []}
    for figure, entry in figures.items():
        found[sign(entry["than_base"])].append(FIGURES[figure].short)
    if not figures:
        return []
    parts = [f"{label} {', '.join(found[sign])}" for sign, label in
             ((-1, "closer than AR in"), (1, "farther in"), (0, "not decided in")) if found[sign]]  # fmt: skip
    return [f"**{column}, against held-out stories**: {'; '.join(parts)}{_seeds(report)}."]


def _frontier(report: dict) -> list[str]:
    """The judge's perplexity of each arm at the temperature that gives the same diversity."""
    curves = {name: _curve(arm) for name, arm in report["arms"].items()}
    if len(curves.get(BASE, [])) < 2:
        return []
    lines = []
    for name, curve in curves.items():
        if name.startswith("mdlm"):
            ratios = [(x, math.exp(y - base)) for x, y in curve if (base := _at(curves[BASE], x)) is not None]
            if ratios:
                said = ", ".join(f"{ratio:.2f} at {x:.2f}" for x, ratio in ratios)
                lines.append(f"**{name}, at equal Self-BLEU** (AR's temperature changed, between its points): MDLM's generative "
                             f"perplexity over AR's is {said}. Means over seeds; no intervals.")  # fmt: skip
    return lines


def _curve(arm: dict) -> list[tuple[float, float]]:
    """(Self-BLEU, log generative perplexity) by temperature, unprompted, in order of the first."""
    points = []
    for key, group in arm["samples"].items():
        if key.startswith("best, bos, "):
            x, y = (group["mean"].get(name) for name in ("self_bleu", "generative_perplexity"))
            if x and y:
                points.append((x["estimate"], math.log(y["estimate"])))
    return sorted(points)


def _at(curve: list[tuple[float, float]], x: float) -> float | None:
    """A curve's value at x, on the straight line between its neighbours; None outside."""
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y0
    return None


def _openings(report: dict) -> list[str]:
    """The paper's headline."""
    shares = {}
    for name in (*(c for c in report["arms"] if c.startswith("mdlm")), BASE):
        mean = report["arms"][name]["samples"].get(MAIN, {}).get("mean", {}).get("distinct_openings")
        if mean:
            shares[name] = mean["estimate"]
    if BASE not in shares or len(shares) == 1:
        return []
    ours = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    theirs = _PAPER_OPENINGS[0] - _PAPER_OPENINGS[1]
    gap = max(share - shares[BASE] for share in shares.values())
    verdict = (
        f"The largest gap here, where both arms start alike, is {gap:.1%}, not {theirs:.1%}. What the paper's own choices add, "
        'such as "Once" forced in one arm only, is in `arche-protocol.md`.'
        if gap < theirs / 2
        else f"The largest gap here, where both arms start alike, is {gap:.1%}, of the paper's order."
    )
    return [f"**Distinct five-word openings**: {ours}; the paper: MDLM {_PAPER_OPENINGS[0]:.1%}, AR "
            f"{_PAPER_OPENINGS[1]:.1%}. {verdict}"]  # fmt: skip


def _supervision(report: dict) -> list[str]:
    group = report["differences"].get("ar-supervised", {}).get("likelihood", {}).get("best")
    if not group:
        return []
    return ["**Equal supervision**: AR trained on as many supervised tokens as MDLM, instead of as many tokens seen, changes its "
            f"NLL by {_shown(group['mean'])} nats a token."]  # fmt: skip


def _overfitting(report: dict) -> list[str]:
    runs = {(name, seed): run for name, arm in report["arms"].items() for seed, run in arm["training"].items()}
    early = sorted(f"{name} seed {seed}" for (name, seed), run in runs.items() if run["best_step"] < run["steps"])
    if not runs:
        return []
    said = f"{', '.join(early)} had its best validation before its last step" if early else (
        "no run was past its best validation: the best checkpoint is the last one, so nothing is said here about the paper's "
        "early overfitting of AR")  # fmt: skip
    return [f"**Overfitting**: {said}."]


def _caveats(report: dict) -> list[str]:
    samples = report["settings"]["num_samples"]
    lines = []
    if samples < FEW_TEXTS:
        lines.append(
            f"**{samples} texts a set**: below {FEW_TEXTS} the intervals over texts are rough, and so is all above."
        )
    judged = min(report["settings"].get("judge_samples") or samples, samples)
    if report.get("judge") and judged < FEW_JUDGED:
        lines.append(f"**{judged} texts judged a set**: below {FEW_JUDGED} generative perplexities are rough.")
    if len(report["seeds"]) == 1:
        lines.append("**One seed**: there is no interval over seeds, so no difference between the arms is shown.")
    elif len(report["seeds"]) == 2:
        lines.append("**Two seeds**: intervals over seeds are wide below three.")
    return lines
