"""The picture of a table of rows: speed against quality, a line a label, a marker a number of steps."""

from typing import Any

from matplotlib.ticker import LogLocator

from arche_mdlm.studies.engine.colours import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.training.files.own_files import OutputFolder

_STYLES = ((VERMILION, "o"), (BLUE, "s"), (GREEN, "D"), (PURPLE, "^"), (ORANGE, "v"))  # the most lines of a column
_FIGURES = {"generative_perplexity": "generative perplexity", "unigram_entropy_nats": "unigram entropy, nats"}


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write `frontier.png` of a report with `rows`, `reference`, `judge` and `settings`; its caption.

    `reference` may lack figures, and rows those of failed jobs.
    """
    output.write("frontier.png", lambda path: save(_frontier(report), path))
    return {
        "frontier.png": "Speed against quality, a few lines a column: a marker for each number of steps, fewer steps to the "
        "right; lines between them only guide the eye; star: AR"
        + ("; dashed: held-out stories" if any(map(_of_reference(report).get, _FIGURES)) else "")
    }


def _frontier(report: dict) -> Any:
    """A row a figure, the samplers shared out over the columns, AR and the held-out stories in every panel."""
    size = str(max(report["settings"]["batch_sizes"]))
    keys = [key for key in _FIGURES if report["judge"] is not None or key != "generative_perplexity"]
    labels = list(dict.fromkeys(row["label"] for row in report["rows"] if row["steps"] is not None))
    columns = max(1, -(-len(labels) // len(_STYLES)))
    each = -(-len(labels) // columns)
    groups = [labels[start : start + each] for start in range(0, max(len(labels), 1), max(each, 1))]
    figure, axes = subplots(len(keys), columns, size=(1 + 4.2 * columns, 0.8 + 3.6 * len(keys)), squeeze=False,
                            sharex=True, sharey="row")  # fmt: skip
    for row, key in zip(axes, keys, strict=True):
        for axis, group in zip(row, groups, strict=True):
            _panel(axis, report, key, size, group)
            axis.set(xscale="log")
            axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            for minor in (False, True):  # 0.5, 1, 2 in place of powers of ten, which run into each other
                (axis.xaxis.set_minor_formatter if minor else axis.xaxis.set_major_formatter)("{x:g}")
            if key == "generative_perplexity":
                axis.set_yscale("log")
            finish(axis)
            axis.grid(alpha=0.25, which="minor")
        row[0].set_ylabel(_FIGURES[key])
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axis in axes[-1]:
        axis.set_xlabel(f"stories/s, batch {size}")
    return figure


def _of_reference(report: dict) -> dict:
    return report["reference"] or {}


def _drawable(row: dict, key: str, size: str) -> bool:
    return row.get(key) is not None and size in row["stories_per_second"]


def _panel(axis: Any, report: dict, key: str, size: str, labels: list[str]) -> None:
    """A line a sampler, AR as a star, held-out stories dashed."""
    for row in report["rows"]:
        if row["steps"] is None and _drawable(row, key, size):
            axis.plot(
                row["stories_per_second"][size]["median"],
                row[key],
                "*",
                ms=15,
                color="black",
                label=row["label"],
                zorder=5,
            )
    for label, (colour, marker) in zip(labels, _STYLES, strict=False):
        rows = [row for row in report["rows"] if row["label"] == label and _drawable(row, key, size)]
        x = [row["stories_per_second"][size]["median"] for row in rows]
        axis.plot(x, [row[key] for row in rows], color=colour, marker=marker, ms=6, lw=1.4, label=label)
    if (real := _of_reference(report).get(key)) is not None:
        axis.axhline(real, **REFERENCE, label="held-out stories")
