"""The report of the study of two objectives: a verdict, the curves, a table, and all figures as JSON."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.colours import BLUE, VERMILION
from arche_mdlm.studies.engine.markdown import failures, interval_cell, number, table, with_captions
from arche_mdlm.studies.engine.plots import finish, save, subplots
from arche_mdlm.studies.engine.readings.intervals import sign_of
from arche_mdlm.training.files.own_files import OutputFolder

FILES = ("report.md", "report.json", "curves.png")
_COLOURS = {"nelbo": BLUE, "low_variance": VERMILION}


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, the curves into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the curves; captions by file name."""
    if not report["objectives"]:
        return {}
    output.write("curves.png", partial(save, _curves(report)))
    bands = "; bands: 95 % intervals over seeds" if len(report["settings"]["seeds"]) > 1 else "; one seed"
    return {"curves.png": f"Bound on held-out stories, mean over seeds{bands}"}


def _curves(report: dict) -> Any:
    figure, axis = subplots(size=(7, 4.4))
    for objective, own in report["objectives"].items():
        colour, points = _COLOURS[objective], own["held_out"]
        axis.plot(own["steps"], [p["estimate"] for p in points], color=colour, lw=1.8, label=objective)
        if points[0]["low"] is not None:
            axis.fill_between(
                own["steps"], [p["low"] for p in points], [p["high"] for p in points], color=colour, alpha=0.15, lw=0
            )
    axis.set(xlabel="steps", ylabel="bound, nats a token", xscale="log")
    finish(axis, legend=True)
    return figure


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    own, seeds = report["settings"], len(report["settings"]["seeds"])
    return [
        "# The objective `low_variance` against `nelbo`",
        "Trainings of one seed share the subset of the stories, the start, the order of rows and the masks; they differ in the weight of "
        f"each row's loss. {own['positions']:,} positions each, learning rate constant after a warm-up; "
        + (f"{seeds} seeds, differences paired by seed, 95 % intervals over seeds (Student's t)." if seeds > 1
           else "one seed: no interval, and nothing is decided."),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} trainings (`report.json`)."] if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
        *with_captions(pictures),
        "## By seed",
        _by_seed(report),
        "Equal bound: the worse one of the two trainings' best bounds, which both reach; steps to it are interpolated on a "
        "logarithmic scale. The bound is the NELBO on held-out stories, with the same masks at every evaluation.",
        *engine.how_trained(report, list(report["runs"].values())),
    ]  # fmt: skip


def sentences(report: dict) -> list[str]:
    """Only what an interval over seeds decides."""
    lines = []
    for key, better, worse in (
        ("log_ratio", "needs fewer steps", "needs more steps"), ("difference", "ends at a lower bound", "ends at a higher bound"),
    ):  # fmt: skip
        own = report.get(key)
        sign = sign_of(own)
        if own is None or not sign:
            continue
        says = better if sign < 0 else worse
        lines.append(f"`low_variance` {says} than `nelbo`: {_described(key, own)}.")
    return lines


def _described(key: str, own: dict) -> str:
    if key == "difference":
        return f"{interval_cell(own, '+.4f')} nats a token"
    ratio, low, high = (math.exp(own[name]) for name in ("estimate", "low", "high"))
    return f"{number(ratio, '.2f', (low, high))} times as many to an equal bound"


def _by_seed(report: dict) -> str:
    rows = []
    for seed, own in report["by_seed"].items():
        last = [f"{report['objectives'][name]['last'][seed]:.4f}" for name in ("nelbo", "low_variance")]
        steps = [f"{own['steps'][name]:,.0f}" for name in ("nelbo", "low_variance")]
        rows.append(
            [
                seed,
                *last,
                f"{own['difference']:+.4f}",
                f"{own['bound']:.4f}",
                *steps,
                f"{math.exp(own['log_ratio']):.2f}",
            ]
        )
    header = [
        "seed",
        "last bound, nelbo",
        "low_variance",
        "difference",
        "equal bound",
        "steps to it, nelbo",
        "low_variance",
        "ratio",
    ]
    return table(header, rows)
