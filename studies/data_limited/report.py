"""The report of the study of few unique tokens: verdicts, a picture, tables, and all figures as JSON."""

from functools import partial
from pathlib import Path
from typing import Any

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.colours import ARMS
from arche_mdlm.studies.engine.markdown import failures, interval_cell, table, with_captions
from arche_mdlm.studies.engine.plots import finish, save, subplots
from arche_mdlm.studies.engine.readings.intervals import sign_of
from arche_mdlm.training.files.own_files import OutputFolder

FILES = ("report.md", "report.json", "curves.png")
_LABELS = {"ar": "AR", "mdlm": "MDLM"}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, the curves into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the curves; captions by file name."""
    if not report["sizes"]:
        return {}
    output.write("curves.png", partial(save, _curves(report)))
    return {
        "curves.png": "Held-out loss during training, a line a training: AR (thin: each weight decay and dropout) and MDLM's bound"
    }


def _curves(report: dict) -> Any:
    sizes = list(report["sizes"])
    figure, axes = subplots(1, len(sizes), size=(4.2 * len(sizes) + 0.6, 4), squeeze=False, sharey=True)
    for axis, size in zip(axes[0], sizes, strict=True):
        named = set()
        for run in (run for run in report["runs"].values() if str(run["size"]) == size):
            label = _LABELS[run["arm"]]
            width = 0.8 if run["arm"] == "ar" else 1.8
            axis.plot(
                run["grid"], run["held_out"], color=ARMS[label], lw=width, label=None if label in named else label
            )
            named.add(label)
        axis.set(title=f"{int(size):,} unique tokens", xlabel="steps", xscale="log")
        finish(axis, legend=True)
    axes[0][0].set_ylabel("nats a token (MDLM: bound)")
    return figure


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    own, seeds = report["settings"], len(report["settings"]["seeds"])
    return [
        "# MDLM and a tuned AR on few unique tokens",
        f"{own['positions']:,} positions of each training, on a fresh random subset a seed and size. AR is tuned over weight decay "
        f"({', '.join(map(str, own['weight_decays']))}) and dropout of attention ({', '.join(map(str, own['dropouts']))}), both arms over "
        "the step: chosen on one half of the held-out stories, measured on the other, and the other way round. MDLM's loss is a bound: "
        "where it is below AR's, MDLM's own is, too; where it is above, nothing follows for MDLM's own. "
        + (f"{seeds} seeds; in brackets 95 % intervals over seeds (Student's t)." if seeds > 1
           else "One seed: no interval, and nothing is decided."),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} trainings (`report.json`); sizes of a seed with a missing one are left out."]
          if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
        *with_captions(pictures),
        "## Best held-out loss, nats a token",
        _best(report),
        "## By seed",
        _by_seed(report),
        *engine.how_trained(report, list(report["runs"].values())),
    ]  # fmt: skip


def sentences(report: dict) -> list[str]:
    """Only what an interval over seeds decides."""
    lines = []
    for size, own in report["sizes"].items():
        difference = own["difference"]
        if not (sign := sign_of(difference)):
            continue
        says = "is below tuned AR's best loss" if sign < 0 else "stays above tuned AR's best loss"
        lines.append(f"With {int(size):,} unique tokens MDLM's best bound {says}: "
                     f"{interval_cell(difference, '+.4f')} nats a token.")  # fmt: skip
    return lines


def _best(report: dict) -> str:
    rows = [[f"{int(size):,}", interval_cell(own["ar"], ".4f"), interval_cell(own["mdlm"], ".4f"), interval_cell(own["difference"], "+.4f")]
            for size, own in report["sizes"].items()]  # fmt: skip
    return table(["unique tokens", "AR, tuned", "MDLM, bound", "MDLM minus AR, paired"], rows)


def _by_seed(report: dict) -> str:
    rows = []
    for size, own in report["sizes"].items():
        for seed, one in own["seeds"].items():
            chosen = f"{one['chosen']['weight_decay']:g}, {one['chosen']['dropout']:g}"
            rows.append(
                [f"{int(size):,}", seed, f"{one['ar']:.4f}", chosen, f"{one['mdlm']:.4f}", f"{one['difference']:+.4f}"]
            )
    return table(["unique tokens", "seed", "AR", "its weight decay, dropout", "MDLM", "MDLM minus AR"], rows)
