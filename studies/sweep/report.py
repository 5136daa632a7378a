"""The report of a sweep: which values each arm does best with, a picture, tables, and all figures as JSON."""

from functools import partial
from pathlib import Path
from typing import Any

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.colours import ARMS as COLOURS
from arche_mdlm.studies.engine.markdown import failures, interval_cell, number, table, with_captions
from arche_mdlm.studies.engine.plots import finish, save, subplots
from arche_mdlm.studies.engine.readings.decisions import Comparison, decide, note, over_seeds
from arche_mdlm.training.files.own_files import OutputFolder

FILES = ("report.md", "report.json", "sweep.png")
_LABELS = {"ar": "AR", "mdlm": "MDLM"}
_NAMES = {
    "rate": "learning rates, times those of the preset",
    "decay_share": "share of the steps in which the rate falls",
    "batch_size": "rows a batch",
}
Key = tuple[str, str, str]


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, the picture into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the picture; captions by file name."""
    if not varied(report):
        return {}
    output.write("sweep.png", partial(save, _picture(report)))
    return {
        "sweep.png": "Held-out loss at the end by each factor, the others as in the base (dotted); MDLM's is its bound"
    }


def varied(report: dict) -> dict[str, str]:
    """The names of the factors that have several values."""
    return {
        factor: name for factor, name in _NAMES.items() if any(len(arm[factor]) > 1 for arm in report["arms"].values())
    }


def _picture(report: dict) -> Any:
    names = varied(report)
    figure, axes = subplots(2, len(names), size=(4.2 * len(names) + 0.6, 6.4), squeeze=False, sharey="row")
    for row, (arm, label) in zip(axes, _LABELS.items(), strict=True):
        for axis, (factor, name) in zip(row, names.items(), strict=True):
            points = sorted((float(value), own["loss"]) for value, own in report["arms"][arm][factor].items())
            axis.plot([x for x, _ in points], [y["estimate"] for _, y in points], "o-", color=COLOURS[label])
            if points and points[0][1]["low"] is not None:
                axis.fill_between([x for x, _ in points], [y["low"] for _, y in points], [y["high"] for _, y in points],
                                  color=COLOURS[label], alpha=0.15, lw=0)  # fmt: skip
            axis.axvline(report["base"][factor], color="0.5", lw=0.9, ls=":")
            axis.set(title=label, xlabel=name, xscale="linear" if factor == "decay_share" else "log")
            ticks = [x for x, _ in points]
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.minorticks_off()
            finish(axis)
        row[0].set_ylabel("nats a token")
    return figure


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    own, seeds = report["settings"], len(report["settings"]["seeds"])
    return [
        "# A sweep of both arms' training settings",
        f"{own['positions']:,} positions of each training on {own['unique_tokens']:,} unique tokens; one factor at a time differs from the base "
        f"(rates of the preset, decay share {report['base']['decay_share']:g}, {report['base']['batch_size']:g} rows a batch). The rate is constant after a "
        "warm-up and falls to 0 at the end; Muon for the layers' matrices, AdamW for the rest. "
        + (f"{seeds} seeds; in brackets 95 % intervals over seeds (Student's t)." if seeds > 1 else "One seed: no interval, and nothing is decided."),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} trainings (`report.json`)."] if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in [*lowest(report), *sentences(report)]),
        note(decide(comparisons(report))),
        *with_captions(pictures),
        *(part for arm in _LABELS for part in (f"## {_LABELS[arm]}", _table(report, arm))),
        "Loss: held-out, at the last step, nats a token; AR's exact, MDLM's bound. Gradient norm: mean over the run, before clipping at 4.",
        *engine.how_trained(report, list(report["runs"].values())),
    ]  # fmt: skip


def lowest(report: dict) -> list[str]:
    """The value with the lowest mean of each arm and factor, and whether it lies at an end of the range."""
    lines = []
    for arm, label in _LABELS.items():
        for factor, name in _NAMES.items():
            values = report["arms"][arm][factor]
            if len(values) < 2:
                continue
            best = min(values, key=lambda value: values[value]["loss"]["estimate"])
            ends = (min(values, key=float), max(values, key=float))
            end = " This is an end of the range: the best may lie outside." if best in ends else ""
            lines.append(f"{label}, {name}: lowest mean at {best} ({interval_cell(values[best]['loss'], '.4f')}).{end}")
    return lines


def comparisons(report: dict) -> dict[Key, Comparison]:
    """Each value's difference from the base, by arm, factor and value."""
    found = {}
    for arm in _LABELS:
        for factor in _NAMES:
            for value, own in report["arms"][arm][factor].items():
                if float(value) != report["base"][factor]:
                    found[arm, factor, value] = over_seeds(own["difference"], own["seeds"])
    return found


def sentences(report: dict) -> list[str]:
    """Only differences from the base that are decided after the correction for all of them."""
    lines = []
    for (arm, factor, value), sign in decide(comparisons(report)).items():
        if sign:
            difference = interval_cell(report["arms"][arm][factor][value]["difference"], "+.4f")
            lines.append(
                f"{_LABELS[arm]}, {_NAMES[factor]}: {value} is {'worse' if sign > 0 else 'better'} than the base, by {difference} nats a token."
            )
    return lines


def _table(report: dict, arm: str) -> str:
    rows = []
    for factor, name in varied(report).items():
        for value, own in sorted(report["arms"][arm][factor].items(), key=lambda item: float(item[0])):
            base = float(value) == report["base"][factor]
            rows.append([name, value + (" (base)" if base else ""), interval_cell(own["loss"], ".4f"),
                         "–" if base else interval_cell(own["difference"], "+.4f"), number(own["grad_norm"], ".2f")])  # fmt: skip
    return table(["factor", "value", "loss", "minus the base, paired", "gradient norm"], rows, (0, 1))
