"""The report of the study of overfitting: verdicts, curves, tables, and all figures as JSON."""

from pathlib import Path

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.markdown import failures, interval_cell, table, with_captions
from arche_mdlm.studies.engine.readings.intervals import sign_of
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
    return [
        "# Overfitting of AR and MDLM on a small corpus",
        _what(report),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} trainings (`report.json`)."] if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
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


def sentences(report: dict) -> list[str]:
    """Only what an interval over seeds decides."""
    lines, decided = [], {}
    for arm, label in LABELS.items():
        if arm not in report["arms"]:
            continue
        means = report["arms"][arm]["means"]
        rise, gain = sign_of(means["rise"]), sign_of(means["late_gain"])
        decided[arm] = (rise, gain)
        if rise > 0:
            lines.append(
                f"{label} overfits: its last held-out loss is {interval_cell(means['rise'], '.4f')} nats a token above its best."
            )
        if gain > 0:
            lines.append(
                f"{label} still improves in the last quarter of its steps, by {interval_cell(means['late_gain'], '.4f')} nats a token."
            )
        elif gain < 0:
            lines.append(
                f"{label} gets worse in the last quarter of its steps, by {interval_cell(_minus(means['late_gain']), '.4f')} nats a token."
            )
    difference = report["differences"].get("rise")
    if sign_of(difference) < 0:
        lines.append(
            f"MDLM overfits less than AR: its rise is {interval_cell(_minus(difference), '.4f')} nats a token smaller, paired by seed."
        )
    if sign_of(difference) > 0:
        lines.append(
            f"MDLM overfits more than AR: its rise is {interval_cell(difference, '.4f')} nats a token larger, paired by seed."
        )
    if decided.get("ar", (0, 0))[0] > 0 and decided.get("mdlm", (1, 0))[0] <= 0 and decided["mdlm"][1] > 0:
        lines.append("So the claim holds here: AR overfits, and MDLM does not and still improves.")
    return lines


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
