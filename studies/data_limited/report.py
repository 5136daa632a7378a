"""The report of the study of few unique tokens: verdicts, pictures, tables, and all figures as JSON."""

from pathlib import Path

import numpy as np

from arche_mdlm.studies.data_limited.conclusions import LABELS, comparisons, crossings, sentences
from arche_mdlm.studies.data_limited.plots import PICTURES, draw
from arche_mdlm.studies.data_limited.summary import ARMS
from arche_mdlm.studies.engine import report as engine
from arche_mdlm.studies.engine.markdown import failures, interval_cell, number, table, with_captions
from arche_mdlm.studies.engine.readings.decisions import decide, note

FILES = ("report.md", "report.json", *PICTURES)


def write_report(report: dict, settings: dict, failed: dict[str, str], output: Path) -> Path:
    """Write report.md, report.json and, with matplotlib, the pictures into `output`; returns report.md."""
    return engine.write_report(output, FILES, {"settings": settings, **report}, failed, draw, _sections)


def _sections(report: dict, pictures: dict[str, str]) -> list[str]:
    return [
        "# MDLM and a tuned AR on few unique tokens",
        *_what(report),
        *failures(report["failed"]),
        *([f"Not in it: {len(report['missing'])} jobs (`report.json`); sizes of a seed with a missing training are left out."]
          if report["missing"] else []),
        "## What can be said",
        "\n".join(f"- {line}" for line in sentences(report)) or "Nothing: no comparison is decided.",
        note(decide(comparisons(report))),
        *with_captions(pictures),
        *_crossover(report),
        "## Best held-out loss, nats a token",
        _best(report),
        *_exact(report),
        *_memorisation(report),
        *_endings(report),
        "## During training",
        "Means over the seeds whose training was still running (AR: the one of its weight decays and dropouts with the lowest held-out loss), at "
        "some evaluations; all of them are in `report.json`.",
        _during(report),
        "## By seed",
        _by_seed(report),
        *engine.how_trained(report, list(report["runs"].values())),
    ]  # fmt: skip


def _what(report: dict) -> list[str]:
    own, seeds = report["settings"], len(report["settings"]["seeds"])
    return [
        f"{own['positions']:,} positions of each training of MDLM, on a fresh random subset a seed and size; of AR as many at most. AR is tuned over weight "
        f"decay ({', '.join(map(str, own['weight_decays']))}) and dropout of attention ({', '.join(map(str, own['dropouts']))}), both arms "
        "over the step: chosen on one half of the held-out rows, measured on the other, and the other way round. MDLM's loss is a bound: "
        "where it is below AR's, MDLM's own is, too; where it is above, nothing follows for MDLM's own. "
        + (f"{seeds} seeds; in brackets 95 % intervals over seeds (Student's t)." if seeds > 1
           else "One seed: no interval, and nothing is decided."),
        _ends(report),
    ]  # fmt: skip


def _ends(report: dict) -> str:
    """How many trainings ended early, and how many may have been too short."""
    runs = {arm: [run for run in report["runs"].values() if run["arm"] == arm] for arm in ARMS}
    factors = sorted({run["past_best"] for run in runs["ar"] if run["past_best"] is not None})
    stopped = sum(run["stopped"] for run in runs["ar"])
    early = (
        f"{stopped} of {len(runs['ar'])} trainings of AR ended early, at the first evaluation at {' or '.join(f'{one:g}' for one in factors)} "
        "times the step of their own lowest held-out loss; their last evaluation is that one. "
        if factors
        else ""
    )
    open_ones = {
        arm: sum(run["best_step"] == run["grid"][-1] and not run["stopped"] for run in own) for arm, own in runs.items()
    }
    return (
        f"{early}In {open_ones['ar']} of {len(runs['ar'])} trainings of AR and {open_ones['mdlm']} of {len(runs['mdlm'])} of MDLM the lowest held-out "
        "loss is that of the last step: longer ones might come lower."
    )


def _crossover(report: dict) -> list[str]:
    said = {-1: "below", 0: "not decided", 1: "above"}
    rows = []
    found = crossings(report)
    for own in found:
        epochs = own["epochs"]
        first = (
            f"{min(epochs):,.1f} to {max(epochs):,.1f}" if len(epochs) > 1 else f"{epochs[0]:,.1f}" if epochs else "–"
        )
        rows.append([f"{int(own['size']):,}", f"{own['bound']} of {own['seeds']} seeds", first, said[own["decided"]["bound"]],
                     f"{own['left_to_right']} of {own['exact_seeds']} seeds", said[own["decided"]["left to right"]]])  # fmt: skip
    none = not any(sign < 0 for own in found for sign in own["decided"].values())
    return [
        "## Does MDLM overtake AR?",
        "With how many unique tokens MDLM comes below tuned AR, by its bound and by its exact NLL from left to right, and at which epoch "
        "the bound first does. "
        + ("At no size a crossover is decided." if none else "Decided ones are in the columns `decided`."),
        table(["unique tokens", "bound below AR's loss", "first at epoch", "decided", "left to right below AR's", "decided"],
              rows, words=(0, 1, 2, 3, 4, 5)),
    ]  # fmt: skip


def _best(report: dict) -> str:
    rows = [[_size(size), interval_cell(own["ar"], ".4f"), interval_cell(own["mdlm"], ".4f"), interval_cell(own["difference"], "+.4f")]
            for size, own in report["sizes"].items()]  # fmt: skip
    return table(["unique tokens", "AR, tuned", "MDLM, bound", "MDLM minus AR, paired"], rows)


def _exact(report: dict) -> list[str]:
    rows = []
    for size, own in report["sizes"].items():
        exact = own["left_to_right"]
        cells = [
            interval_cell(exact[key], style) for key, style in (("ar", ".4f"), ("mdlm", ".4f"), ("difference", "+.4f"))
        ]
        rows.append([_size(size), str(exact["seeds"]), *cells])  # fmt: skip
    return [
        "## Exact likelihood from left to right, nats a token",
        f"Two exact likelihoods of the same {report['settings']['exact_rows']} rows of each half of the held-out ones: AR's, and MDLM's as it writes a "
        "token a step from left to right. The checkpoint is the one with the best held-out loss (MDLM: the best bound, not the best exact NLL) on one "
        "half, measured on rows of the other, and the other way round.",
        table(["unique tokens", "seeds", "AR, tuned", "MDLM, left to right", "MDLM minus AR, paired"], rows),
    ]


def _memorisation(report: dict) -> list[str]:
    keys = {"best": ".4f", "last": ".4f", "rise": "+.4f", "gap_best": "+.4f", "gap_last": "+.4f"}
    return [
        "## Memorisation: held-out minus training loss, nats a token",
        "At the best evaluation and at the last one of the same training (of a stopped AR the one that ended it).",
        _by_arm(report, keys, ["best held-out loss", "last", "last minus best", "gap at the best", "gap at the last"]),
    ]


def _endings(report: dict) -> list[str]:
    own = report["settings"]
    keys = {"endings_best": ".3f", "endings_last": ".3f", "endings_change": "+.3f"}
    return [
        "## Endings: the true one against another row's",
        f"Share of held-out rows (up to {own['endings']} a half) whose last third is likelier than the last tokens of another held-out row, given the "
        "same beginning: a task that may improve while the loss rises. AR's likelihoods are exact; MDLM's are bounds, with "
        f"{own['evaluation_draws']} draws and the same masks for both endings, whose noise draws the share towards one half: compare an arm with "
        "itself, not with the other one.",
        _by_arm(report, keys, ["at the best held-out loss", "at the last evaluation", "last minus best"]),
    ]


def _by_arm(report: dict, keys: dict[str, str], header: list[str]) -> str:
    rows = []
    for size, own in report["sizes"].items():
        for arm, course in own["course"].items():
            rows.append(
                [_size(size), LABELS[arm], *(interval_cell(course.get(key), style) for key, style in keys.items())]
            )
    return table(["unique tokens", "arm", *header], rows, words=(0, 1))


def _during(report: dict) -> str:
    rows = []
    for size, own in report["sizes"].items():
        for arm, key in (("ar", "tuned"), ("mdlm", "mdlm_training")):
            runs = [report["runs"][one[key]] for one in own["seeds"].values()]
            for step, places in _evaluations(runs):
                cells = [
                    _mean(runs, places, name, style)
                    for name, style in (("held_out", ".4f"), ("train", ".4f"), ("endings", ".3f"))
                ]
                rows.append([_size(size), LABELS[arm], f"{step:,}", str(len(places)), *cells])  # fmt: skip
    header = ["unique tokens", "arm", "step", "seeds", "held-out loss", "training loss", "true endings likelier"]
    return table(header, rows, words=(0, 1))


def _evaluations(runs: list[dict]) -> list[tuple[int, dict[int, int]]]:
    """Some evaluations of trainings that may have ended at different ones: the step, and the place in the grid of each that was there.

    The first, second, fourth, ... and the last one that any has.
    """
    steps = sorted({step for run in runs for step in run["grid"]})
    chosen = sorted({min(2**power, len(steps)) - 1 for power in range(len(steps).bit_length() + 1)}) if steps else []
    return [
        (steps[place], {which: run["grid"].index(steps[place]) for which, run in enumerate(runs) if steps[place] in run["grid"]})
        for place in chosen
    ]  # fmt: skip


def _mean(runs: list[dict], places: dict[int, int], name: str, style: str) -> str:
    values = [runs[which][name][place] for which, place in places.items() if runs[which][name] is not None]
    return number(float(np.mean(values)) if values else None, style)


def _by_seed(report: dict) -> str:
    rows = []
    for size, own in report["sizes"].items():
        for seed, one in own["seeds"].items():
            chosen = " or ".join(f"{pair['weight_decay']:g}, {pair['dropout']:g}" for pair in one["chosen"])
            exact = one["left_to_right"]
            rows.append([
                _size(size), seed, f"{one['ar']:.4f}", chosen, f"{one['mdlm']:.4f}", f"{one['difference']:+.4f}",
                number(None if exact is None else exact["difference"], "+.4f"),
            ])  # fmt: skip
    header = ["unique tokens", "seed", "AR", "its weight decay, dropout", "MDLM", "MDLM minus AR", "left to right minus AR"]  # fmt: skip
    return table(header, rows)


def _size(size: str) -> str:
    return f"{int(size):,}"
