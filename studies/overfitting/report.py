"""The report of the study of overfitting: verdicts, curves, tables, and all figures as JSON."""

from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.markdown import failures, interval_cell, table, with_captions
from arche_mdlm.studies.engine.readings.decisions import Comparison, decide, note, over_seeds
from arche_mdlm.studies.overfitting.plots import PICTURES, draw

FILES = ("report.md", "report.json", *PICTURES)
LABELS = {"ar": "AR", "mdlm": "MDLM"}
_ROWS = {
    "rise": ("last minus best held-out loss", "+.4f"),
    "late_gain": ("held-out loss at three quarters minus the last", "+.4f"),
    "gap": ("memorisation gap at the end: held-out minus training", "+.4f"),
    "best": ("best held-out loss", ".4f"),
    "last": ("last held-out loss", ".4f"),
    "best_step": ("step of the best", ",.0f"),
}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, the curves into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    title = "# Overfitting of AR and MDLM on a small corpus"
    if not report["arms"]:
        return [title, *failures(report["failed"]), "No training was finished."]
    return [
        title,
        _what(report),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} trainings (`report.json`)."] if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
        note(decide(comparisons(report))),
        *with_captions(pictures),
        "## Figures",
        _figures(report),
        "Nats a token; AR's is exact, MDLM's the bound (NELBO). Last minus best: the step that is best on one half of the held-out "
        "stories is measured on the other half, and the other way round; the mean of both. So the least of many noisy values "
        "does not look better than it is. All of MDLM's evaluations use the same masks, so their differences are paired.",
        "## By seed",
        _by_seed(report),
        *engine.how_trained(report, [run for arm in report["arms"].values() for run in arm["seeds"].values()]),
    ]


def _what(report: dict) -> str:
    own = report["settings"]
    sizes = {f"{run['parameters']:,}" for arm in report["arms"].values() for run in arm["seeds"].values()}
    unique = [subset["tokens"] for subset in report["subsets"].values()]
    seen = [run["tokens"] for arm in report["arms"].values() for run in arm["seeds"].values()]
    epochs = sum(seen) / len(seen) / (sum(unique) / len(unique))
    seeds = len(own["seeds"])
    return (
        f"Claim (arXiv 2603.22075): AR overfits early, and MDLM still improves. Here {' and '.join(sorted(sizes))} parameters, "
        f"a vocabulary of {own['vocab_size']}, rows of {own['context_length']} tokens, {min(unique):,} to {max(unique):,} unique tokens (a "
        f"fresh random subset of the stories and a tokenizer of its own a seed), about {epochs:.0f} epochs, "
        f"{own['evaluation_rows']} rows of each half of the held-out stories. The learning rate is constant after a warm-up, "
        "so that the last step is as any other; no weight decay, no dropout. "
        + (f"{seeds} seeds; in brackets 95 % intervals over seeds (Student's t)." if seeds > 1 else
           "One seed: there are no intervals, and nothing is decided.")
    )  # fmt: skip


def comparisons(report: dict) -> dict[tuple[str, str], Comparison]:
    """All that is looked at, by (arm, statistic) and ("both", statistic): MDLM minus AR."""
    seeds = len(report["settings"]["seeds"])
    found = {
        (arm, name): over_seeds(report["arms"][arm]["means"][name], seeds)
        for arm in LABELS if arm in report["arms"] for name in ("rise", "late_gain")
    }  # fmt: skip
    return found | {("both", "rise"): over_seeds(report["differences"].get("rise"), seeds)}


def sentences(report: dict) -> list[str]:
    """Only what is decided after the correction for all comparisons."""
    signs, lines = decide(comparisons(report)), []
    for arm, label in LABELS.items():
        if arm not in report["arms"]:
            continue
        means = report["arms"][arm]["means"]
        rise, gain = (interval_cell(means[name], ".4f") for name in ("rise", "late_gain"))
        if signs[arm, "rise"] > 0:
            lines.append(f"{label} overfits: its last held-out loss is {rise} nats a token above its best.")
        if signs[arm, "late_gain"] > 0:
            lines.append(f"{label} still improves in the last quarter of its steps, by {gain} nats a token.")
        elif signs[arm, "late_gain"] < 0:
            worse = interval_cell(_minus(means["late_gain"]), ".4f")
            lines.append(f"{label} gets worse in the last quarter of its steps, by {worse} nats a token.")
    difference = report["differences"].get("rise")
    if signs["both", "rise"]:
        less = signs["both", "rise"] < 0
        size = interval_cell(_minus(difference) if less else difference, ".4f")
        lines.append(f"MDLM overfits {'less' if less else 'more'} than AR: its rise is {size} nats a token "
                     f"{'smaller' if less else 'larger'}, paired by seed.")  # fmt: skip
    holds = (signs.get(("ar", "rise"), 0), signs["both", "rise"], signs.get(("mdlm", "late_gain"), 0)) == (1, -1, 1)
    return [*lines, *(["So the claim holds here: AR overfits, MDLM less, and MDLM still improves."] if holds else [])]


def _minus(interval: dict) -> dict:
    return {"estimate": -interval["estimate"], "low": -interval["high"], "high": -interval["low"]}


def _figures(report: dict) -> str:
    arms = [arm for arm in LABELS if arm in report["arms"]]
    rows = []
    for key, (label, style) in _ROWS.items():
        cells = [interval_cell(report["arms"][arm]["means"][key], style) for arm in arms]
        rows.append([label, *cells, interval_cell(report["differences"].get(key), "+.4f")])
    return table(["", *(LABELS[arm] for arm in arms), "MDLM minus AR, paired"], rows)


def _by_seed(report: dict) -> str:
    rows = []
    for arm, own in report["arms"].items():
        for seed, run in own["seeds"].items():
            rows.append([LABELS[arm], seed, f"{run['steps']:,}", f"{run['tokens']:,}", f"{run['best_step']:,}", f"{run['best']:.4f}",
                         f"{run['last']:.4f}", f"{run['rise']:+.4f}", f"{run['late_gain']:+.4f}", f"{run['gap']:+.4f}",
                         f"{run['seconds'] / 60:.1f}"])  # fmt: skip
    header = [
        "",
        "seed",
        "steps",
        "tokens seen",
        "best at",
        "best",
        "last",
        "last minus best",
        "late gain",
        "gap",
        "minutes",
    ]
    return table(header, rows)
