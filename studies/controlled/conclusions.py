"""Conclusions from the intervals of the controlled comparison, in sentences; `readings.decisions` says which are decided."""

import itertools
import math

from arche_mdlm.studies.controlled.matched import WHERE_STOPPED, not_reached
from arche_mdlm.studies.controlled.summary import BASE, sample_key
from arche_mdlm.studies.engine.figures import FEW_JUDGED, FIGURES
from arche_mdlm.studies.engine.readings.decisions import Comparison, decide, note, over_seeds
from arche_mdlm.studies.engine.readings.floors import LEAST_WORDS
from arche_mdlm.studies.engine.readings.intervals import seeds_interval

MAIN = sample_key({"checkpoint": "best", "prompt": "bos", "temperature": 1.0})
FEW_TEXTS = 100
_PAPER_OPENINGS = (0.934, 0.033)  # MDLM and AR, arXiv 2603.22075
_EQUAL_DIVERSITY, _EQUAL_CLOSENESS = "diversity beside ", "closeness beside "  # and a column of AR at MDLM's likelihood
_SWEEP = "best, bos, "
Key = tuple[str, str, str]
_MORE_IS_DIVERSE = {"distinct_2": 1, "distinct_4": 1, "self_bleu": -1, "vocabulary_size": 1, "distinct_openings": 1}


def conclusions(report: dict) -> list[str]:
    """Sentences that the intervals decide, how many comparisons that took, and facts that need no interval."""
    signs = decide(comparisons(report))
    return [
        *decided_sentences(report),
        note(signs),
        *_left_out(report),
        *_openings(report),
        *_overfitting(report),
        *_caveats(report),
    ]


def _left_out(report: dict) -> list[str]:
    poor = report.get("poor", {})
    return (
        [f"**Left out of all sentences**: {'; '.join(f'{column}: {why}' for column, why in poor.items())}."]
        if poor
        else []
    )


def decided_sentences(report: dict) -> list[str]:
    """One line a question; empty where nothing is decided."""
    signs = decide(comparisons(report))
    lines = _at_equal_fit(report, signs)
    for column in report["arms"]:
        if column.startswith("mdlm"):
            lines += [
                *_likelihood(report, column, signs),
                *_left_to_right(report, column, signs),
                *_diversity(column, signs),
                *_closeness(column, signs),
                *_frontier(report, column, signs),
            ]
    return [*lines, *_supervision(report, signs)]


def comparisons(report: dict) -> dict[Key, Comparison]:
    """All that is looked at: (question, column, figure or temperature); without the columns that `floors` marks."""
    found: dict[Key, Comparison] = {}
    seeds, poor = len(report["seeds"]), report.get("poor", {})
    for base, equal in report.get("at_equal_fit", {}).items():
        if {equal["column"], base} & set(poor) or not_reached(report["arms"].get(base, {})):
            continue
        for figure in _MORE_IS_DIVERSE:
            if figure in equal["differences"]["samples"].get(MAIN, {}):
                mean = equal["differences"]["samples"][MAIN][figure]["mean"]
                found[_EQUAL_DIVERSITY + base, equal["column"], figure] = over_seeds(mean, seeds)
        for figure, entry in equal["distances"].get(MAIN, {}).items():
            found[_EQUAL_CLOSENESS + base, equal["column"], figure] = over_seeds(entry["than_base"], seeds)
    if BASE in poor:
        return found
    for column in report["arms"]:
        if column.startswith("mdlm") and column not in poor:
            own = report["differences"].get(column, {"likelihood": {}, "samples": {}})
            if "best" in own["likelihood"]:
                found["likelihood", column, ""] = over_seeds(own["likelihood"]["best"]["mean"], seeds)
            if "exact" in own:
                found["left to right", column, ""] = over_seeds(own["exact"]["mean"], seeds)
            for figure in _MORE_IS_DIVERSE:
                if figure in own["samples"].get(MAIN, {}):
                    found["diversity", column, figure] = over_seeds(own["samples"][MAIN][figure]["mean"], seeds)
            for figure, entry in report.get("distances", {}).get(column, {}).get(MAIN, {}).items():
                found["closeness", column, figure] = over_seeds(entry["than_base"], seeds)
            for temperature, interval in _ratios(report, column).items():
                found["frontier", column, temperature] = over_seeds(interval, seeds)
    group = report["differences"].get("ar-supervised", {}).get("likelihood", {}).get("best")
    if group and "ar-supervised" not in poor:
        found["supervision", "ar-supervised", ""] = over_seeds(group["mean"], seeds)
    return found


def _shown(interval: dict, style: str = "+.3f") -> str:
    text = format(interval["estimate"], style)
    return f"{text} (95 % over seeds: {interval['low']:{style}} to {interval['high']:{style}})"


def _likelihood(report: dict, column: str, signs: dict[Key, int]) -> list[str]:
    said = {
        1: "The bound lies above AR's exact value: MDLM gives the held-out stories less probability, or the bound is slack; a "
           "bound alone cannot tell which.",
        -1: "Even its upper bound is below AR's exact value: MDLM is the better density model here.",
    }  # fmt: skip
    sign = signs.get(("likelihood", column, ""), 0)
    if not sign:
        return []
    mean = report["differences"][column]["likelihood"]["best"]["mean"]
    return [f"**{column}, likelihood**: NELBO minus AR's NLL is {_shown(mean)} nats a token. {said[sign]}"]


def _left_to_right(report: dict, column: str, signs: dict[Key, int]) -> list[str]:
    """Two exact likelihoods: of MDLM as it writes a token a step from left to right, and of AR."""
    sign = signs.get(("left to right", column, ""), 0)
    if not sign:
        return []
    own = report["differences"][column]["exact"]
    said = {
        1: "written so, MDLM is the worse density model",
        -1: "written so, MDLM is the better density model",
    }[sign]
    mean = own["mean"]
    return [f"**{column}, left to right**: its exact NLL of {own['stories']} held-out stories, a token a step from left to right, minus AR's is "
            f"{mean['estimate']:+.3f} nats a token (95 %, over seeds and over these stories: {mean['low']:+.3f} to {mean['high']:+.3f}): {said}."]  # fmt: skip


def _at_equal_fit(report: dict, signs: dict[Key, int]) -> list[str]:
    """MDLM beside AR models that were stopped at MDLM's likelihood: what is left of the differences where the fit is equal."""
    lines = []
    for base, equal in report.get("at_equal_fit", {}).items():
        diverse, close = (
            _by_sign(question + base, equal["column"], signs) for question in (_EQUAL_DIVERSITY, _EQUAL_CLOSENESS)
        )
        parts = [f"{label} {', '.join(names)}" for label, names in (
            ("more diverse by", diverse[1]), ("less diverse by", diverse[-1]),
            ("closer to held-out stories in", close[-1]), ("farther from them in", close[1])) if names]  # fmt: skip
        if parts:
            lines.append(f"**{equal['column']}, at equal fit** (against `{base}`: AR stopped at MDLM's {WHERE_STOPPED[base]}): "
                         f"{'; '.join(parts)}.")  # fmt: skip
    return lines


def _by_sign(question: str, column: str, signs: dict[Key, int]) -> dict[int, list[str]]:
    """Short names of the figures that a question decides, by sign."""
    found: dict[int, list[str]] = {1: [], -1: []}
    for (asked, own, figure), sign in signs.items():
        if (asked, own) == (question, column) and sign:
            found[sign * (_MORE_IS_DIVERSE.get(figure, 1) if question.startswith("diversity") else 1)].append(
                FIGURES[figure].short
            )
    return found


def _diversity(column: str, signs: dict[Key, int]) -> list[str]:
    found = _by_sign("diversity", column, signs)
    parts = [f"{label} by {', '.join(found[sign])}"
             for sign, label in ((1, "more diverse than AR"), (-1, "less diverse than AR")) if found[sign]]  # fmt: skip
    return [f"**{column}, diversity** (same start, temperature 1.0): {'; '.join(parts)}."] if parts else []


def _closeness(column: str, signs: dict[Key, int]) -> list[str]:
    """Compare with the diversity of held-out stories: higher is not always better."""
    found = _by_sign("closeness", column, signs)
    parts = [f"{label} {', '.join(found[sign])}"
             for sign, label in ((-1, "closer than AR in"), (1, "farther than AR in")) if found[sign]]  # fmt: skip
    return [f"**{column}, against held-out stories**: {'; '.join(parts)}."] if parts else []


def _frontier(report: dict, column: str, signs: dict[Key, int]) -> list[str]:
    """The judge's perplexity of each arm at the temperature that gives the same diversity."""
    said = []
    for temperature, interval in _ratios(report, column).items():
        if signs.get(("frontier", column, temperature)):
            ratio, low, high = (math.exp(interval[key]) for key in ("estimate", "low", "high"))
            said.append(f"{ratio:.2f} ({low:.2f} to {high:.2f}) at temperature {temperature}")
    if not said:
        return []
    return [f"**{column}, at equal Self-BLEU** (AR's temperature changed, between its points): MDLM's generative "
            f"perplexity over AR's is {', '.join(said)}."]  # fmt: skip


def _ratios(report: dict, column: str) -> dict[str, dict]:
    """By MDLM's temperature: log of its perplexity over AR's at the same Self-BLEU, mean and interval over seeds."""
    found: dict[str, dict] = {}
    for key, group in report["arms"][column].get("samples", {}).items():
        logs = []
        for seed, entry in group.get("seeds", {}).items():
            point, base = _point(entry), None
            if key.startswith(_SWEEP) and point:
                base = _at(_curve(report["arms"].get(BASE, {}), seed), point[0])
            if point and base is not None:
                logs.append(point[1] - base)
        if len(logs) > 1 and len(logs) == len(report["seeds"]):
            found[key.removeprefix(_SWEEP)] = seeds_interval(logs)._asdict()
    return found


def _point(entry: dict) -> tuple[float, float] | None:
    """(Self-BLEU, log generative perplexity) of a set of texts; None without a judge, or where texts are too short."""
    if (entry.get("figures") or {}).get("median_words", LEAST_WORDS) < LEAST_WORDS:
        return None
    x, y = ((entry.get("figures") or {}).get(name) for name in ("self_bleu", "generative_perplexity"))
    return (x, math.log(y)) if x is not None and y else None


def _curve(arm: dict, seed: str) -> list[tuple[float, float]]:
    """The points of a seed by temperature, unprompted, in order of Self-BLEU."""
    groups = [group for key, group in arm.get("samples", {}).items() if key.startswith(_SWEEP)]
    return sorted(point for group in groups if seed in group["seeds"] and (point := _point(group["seeds"][seed])))


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
    return [f"**Distinct five-word openings**: {ours}; the paper: MDLM {_PAPER_OPENINGS[0]:.1%}, AR {_PAPER_OPENINGS[1]:.1%}, "
            'where "Once" is forced in AR alone (`arche-protocol.md`).']  # fmt: skip


def _supervision(report: dict, signs: dict[Key, int]) -> list[str]:
    if not signs.get(("supervision", "ar-supervised", "")):
        return []
    mean = report["differences"]["ar-supervised"]["likelihood"]["best"]["mean"]
    return ["**Equal supervision**: AR trained on as many supervised tokens as MDLM, instead of as many tokens seen, changes its "
            f"NLL by {_shown(mean)} nats a token."]  # fmt: skip


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
