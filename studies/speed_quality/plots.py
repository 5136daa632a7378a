"""The picture of the speed-quality study."""

from typing import Any

from arche_mdlm.studies.engine.colours import SERIES
from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.training.files.own_files import OutputFolder

_MARKERS = "osD^vPX<>h"
_LINES = ("-", "--", ":")


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write `frontier.png`; its caption."""
    output.write("frontier.png", lambda path: save(_frontier(report), path))
    return {
        "frontier.png": "Speed against quality: a marker for each number of steps, fewer steps to the right; lines between "
        "them only guide the eye" + ("; dashed: held-out stories" if report["reference"] else "")
    }


def _frontier(report: dict) -> Any:
    size = str(max(report["settings"]["batch_sizes"]))
    panels = {"generative_perplexity": "generative perplexity", "unigram_entropy_nats": "unigram entropy, nats"}
    if report["judge"] is None:
        del panels["generative_perplexity"]
    figure, axes = subplots(1, len(panels), size=(1.5 + 6 * len(panels), 5), squeeze=False)
    for axis, (key, label) in zip(axes[0], panels.items(), strict=True):
        _panel(axis, report, key, size)
        axis.set(xscale="log", xlabel=f"stories/s, batch {size}", ylabel=label)
        finish(axis)
        axis.grid(alpha=0.25, which="minor")
        if key == "generative_perplexity":
            axis.set_yscale("log")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _panel(axis: Any, report: dict, key: str, size: str) -> None:
    """A line a sampler, AR as a star, held-out stories dashed."""
    for number, label in enumerate(dict.fromkeys(row["label"] for row in report["rows"])):
        rows = [row for row in report["rows"] if row["label"] == label and row[key] is not None]
        x = [row["stories_per_second"][size]["median"] for row in rows]
        y = [row[key] for row in rows]
        if all(row["steps"] is None for row in rows):
            axis.plot(x, y, "*", ms=18, color="black", label=label, zorder=5)
            continue
        style = {"marker": _MARKERS[number % len(_MARKERS)], "ls": _LINES[number // len(SERIES) % len(_LINES)]}
        axis.plot(x, y, color=SERIES[number % len(SERIES)], ms=6, lw=1.4, label=label, **style)
    if report["reference"] and report["reference"][key] is not None:
        axis.axhline(report["reference"][key], **REFERENCE, label="held-out stories")
