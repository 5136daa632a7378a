"""Pictures of the study of error rates: token and sequence error against steps, a line a length."""

import math
from functools import partial
from typing import Any

from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.training.files.own_files import OutputFolder

PICTURES = tuple(
    f"{denoiser}-{kind}-{measure}.png" for denoiser in ("oracle", "trained") for kind in ("ngram", "hmm")
    for measure in ("token", "sequence")
)  # fmt: skip
_NAMES = {"ngram": "n-gram language", "hmm": "hidden Markov model"}
_WHO = {"oracle": "exact posterior", "trained": "trained models"}
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the pictures there is data for; captions by file name."""
    captions = {}
    for name in PICTURES:
        denoiser, kind, measure = name.removesuffix(".png").split("-")
        groups = [g for g in report["groups"] if (g["denoiser"], g["language"]) == (denoiser, kind)]
        if groups:
            output.write(name, partial(save, _panels(report, groups, measure)))
            what = "Token perplexity" if measure == "token" else "Share of sequences that the language cannot produce"
            line = "the language's own" if measure == "token" else "one half"
            captions[name] = f"{what} against steps, {_NAMES[kind]}, {_WHO[denoiser]}, a line a length; dashed: {line}"
    return captions


def _panels(report: dict, groups: list[dict], measure: str) -> Any:
    """A panel a sampler."""
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    size = (max(5.0, 3.1 * columns + 0.8), 2.7 * rows + 0.8)
    figure, axes = subplots(rows, columns, size=size, squeeze=False, sharex=True, sharey=True)
    for axis, group in zip(axes.flat, groups, strict=False):
        _panel(axis, report, group, measure)
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_visible(False)
    for index, axis in enumerate(axes.flat):
        if index + columns >= len(groups):
            axis.set_xlabel("steps")
            axis.xaxis.set_tick_params(labelbottom=True)
    for row in axes:
        row[0].set_ylabel("token perplexity" if measure == "token" else "impossible sequences")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=len(labels))
    return figure


def _panel(axis: Any, report: dict, group: dict, measure: str) -> None:
    import matplotlib as mpl

    key = "perplexity" if measure == "token" else "impossible"
    shades = mpl.colormaps["viridis"]
    for index, (length, points) in enumerate(group["curves"].items()):
        colour = shades(0.88 * index / max(1, len(group["curves"]) - 1))
        x = [point["steps"] for point in points]
        y = [point[key]["estimate"] for point in points]
        axis.plot(x, y, color=colour, marker=_MARKERS[index % len(_MARKERS)], ms=4, lw=1.4, label=f"L = {length}")
        if points[0][key]["low"] is not None:
            low, high = ([point[key][end] for point in points] for end in ("low", "high"))
            axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    if measure == "token":
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
        own = [one for one in report["references"].values() if one["language"] == group["language"]]
        if own:
            axis.axhline(math.exp(own[-1]["nats"]), **REFERENCE)
    else:
        axis.set_ylim(-0.03, 1.03)
        axis.axhline(0.5, **REFERENCE)
    axis.set_title(group["sampler"], fontsize=10)
    finish(axis)
