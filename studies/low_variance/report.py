"""The report of the study of two objectives: a verdict, the curves, tables, and all figures as JSON."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.colours import BLUE, VERMILION
from arche_mdlm.studies.engine.markdown import failures, interval_cell, number, table, with_captions
from arche_mdlm.studies.engine.plots import finish, save, subplots
from arche_mdlm.studies.engine.readings.floors import MARK
from arche_mdlm.studies.engine.readings.floors import note as floor_note
from arche_mdlm.studies.low_variance.conclusions import PAPER_RATIO, ratio_cell, sentences
from arche_mdlm.studies.low_variance.plan import OBJECTIVES
from arche_mdlm.training.files.own_files import OutputFolder

FILES = ("report.md", "report.json", "curves.png")
_COLOURS = dict(zip(OBJECTIVES, (BLUE, VERMILION), strict=True))
_STYLES = ("-", "--", ":", "-.")


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, the curves into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the curves; captions by file name."""
    if "log_ratio" not in report:  # no seed counts
        return {}
    output.write("curves.png", partial(save, _curves(report)))
    return {"curves.png": "Bound on held-out stories behind the start, mean over seeds, by objective and rate"}


def _curves(report: dict) -> Any:
    figure, axis = subplots(size=(7, 4.4))
    for objective, by_rate in report["rates"].items():
        for place, (rate, own) in enumerate(by_rate.items()):
            if not own["steps"]:  # all diverged
                continue
            style = _STYLES[place % len(_STYLES)]
            axis.plot(
                own["steps"],
                own["held_out"],
                style,
                color=_COLOURS[objective],
                lw=1.6,
                label=f"{objective}, rate x {rate}",
            )
    axis.set(xlabel="steps behind the start", ylabel="bound, nats a token", xscale="log")
    finish(axis, legend=True)
    return figure


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    return [
        "# The objective `low_variance` against `nelbo`",
        _what(report["settings"]),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} trainings (`report.json`); a seed with a missing one is left out."]
          if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no interval decides it.",
        *(with_captions(pictures) if "log_ratio" in report else []),
        "## Over the seeds",
        _over_seeds(report),
        "FLOPs are those of the matrix products, counted from the shapes. " + _of_a_step(report),
        "## By seed",
        _by_seed(report),
        floor_note(report["poor"]),
        "The bound is the NELBO of held-out stories, with the same masks at every evaluation. Equal bound: the worse one of the two "
        "trainings' best bounds, which both reach; steps to it are interpolated on a logarithmic scale. Two figures: chosen on the first "
        "half of the rows and measured on the second, and the other way round. The start's bound is beside the nats a token of a unigram "
        "of the training rows on the same held-out rows.",
        "## By rate",
        _by_rate(report),
        _clipping(report),
        *engine.how_trained(report, list(report["runs"].values())),
    ]  # fmt: skip


def _what(own: dict) -> str:
    seeds, rates = len(own["seeds"]), ", ".join(f"{rate:g}" for rate in own["rates"])
    return (
        f"Claim (arXiv 2602.15014): `low_variance` (cross-entropy, weight 1) needs about {100 * (1 - PAPER_RATIO):.0f} % fewer FLOPs than `nelbo`. Here both go on "
        f"from the same weights, those of a training by `nelbo` of {own['start_positions']:,} positions a seed, with a fresh state of the "
        f"optimiser, for {own['positions']:,} positions. Trainings of a seed share the subset of the stories, the order of rows and the "
        "masks, and differ in the weight of each row's loss and in the learning rate, which is constant after a warm-up: each objective has the best of "
        f"{rates} times the preset's (of AdamW and of Muon), chosen on one half of the held-out rows and measured on the other, and the other way "
        "round, so that several tries do not look better than they are. "
        + (f"{seeds} seeds, paired; in brackets 95 % intervals over the seeds whose start is past the plateau (Student's t)." if seeds > 1
           else "One seed: no interval, and nothing is decided.")
    )  # fmt: skip


def _over_seeds(report: dict) -> str:
    if "log_ratio" not in report:
        return "No seed is whole and past the plateau."
    rows = [
        ["FLOPs to an equal bound, `low_variance` over `nelbo`", ratio_cell(report["log_ratio"])],
        ["the same, those of the start counted", ratio_cell(report["log_ratio_with_start"])],
        ["last bound, `low_variance` minus `nelbo`, nats a token", interval_cell(report["difference"], "+.4f")],
    ]
    return table(["", "over seeds"], rows)


def _of_a_step(report: dict) -> str:
    """What a step costs, by objective."""
    costs = {}
    for objective, by_rate in report["rates"].items():
        known = [own["step_flops"] for own in by_rate.values() if own["step_flops"]]
        if known:
            costs[objective] = sum(known) / len(known) / 1e9
    said = ", ".join(f"{cost:.4g} GFLOP with `{objective}`" for objective, cost in costs.items())
    return f"A step costs {said}: the masks are the same, so the ratio is one of steps as well." if said else ""


def _by_seed(report: dict) -> str:
    rows = []
    for seed, start in report["starts"].items():
        own = report["by_seed"].get(seed)
        mark = f" {MARK}" if seed in report["poor"] else ""
        rows.append([f"{seed}{mark}", f"{start['bound']:.3f}", f"{start['unigram']:.3f}", *_cells(own)])
    header = ["seed", "start's bound", "unigram", "rates, `nelbo`", "`low_variance`", "last bound, `nelbo`", "`low_variance`",
              "difference", "equal bound", "steps to it, `nelbo`", "`low_variance`", "ratio of FLOPs", "start counted"]  # fmt: skip
    return table(header, rows)


def _cells(own: dict | None) -> list[str]:
    """Of a seed; both ways where the figure is not a mean of them."""
    if own is None:
        return ["–"] * 10

    def both(key: str, objective: str | None, style: str) -> str:
        values = [way[key] if objective is None else way[key][objective] for way in own["ways"]]
        return " / ".join(format(value, style) for value in values)

    cells = [
        both(key, objective, style) for key, style in (("rates", "g"), ("last", ".4f")) for objective in OBJECTIVES
    ]
    cells += [f"{own['difference']:+.4f}", both("bound", None, ".4f")]
    cells += [both("steps", objective, ",.0f") for objective in OBJECTIVES]
    return [*cells, *(f"{math.exp(own[key]):.3f}" for key in ("log_ratio", "log_ratio_with_start"))]


def _by_rate(report: dict) -> str:
    rows = []
    for objective, by_rate in report["rates"].items():
        for rate, own in by_rate.items():
            rows.append(
                [
                    f"`{objective}`",
                    f"{float(rate):g}",
                    interval_cell(own["last"], ".4f"),
                    f"{own['chosen']}",
                    f"{own['diverged']}",
                ]
            )
    choices = 2 * len([seed for seed in report["by_seed"] if seed not in report["poor"]])
    return table(["objective", "rate", "last bound", f"best, of {choices} choices", "diverged"], rows)


def _clipping(report: dict) -> str:
    own = report["clipping"]
    if not own["windows"]:
        return ""
    return (
        f"Gradients are clipped at a norm of {report['settings']['clip_norm']:g}. Of {own['windows']:,} windows of the logs {own['binding']:,} "
        f"({own['binding'] / own['windows']:.1%}) have a mean norm above it; the largest mean is {number(own['largest'], '.3g')}."
    )
