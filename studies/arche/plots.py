"""The picture of the paper's protocol: every cell of both factor tables beside the paper's own figure."""

from typing import Any

from arche_mdlm.studies.arche.factors import LABELS, NAMES
from arche_mdlm.studies.engine.colours import ARMS
from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.training.files.own_files import OutputFolder

_FIGURES = {"distinct_openings": "distinct five-word openings", "self_bleu": "Self-BLEU, as the paper's code has it"}


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write `factors.png`; its caption."""
    output.write("factors.png", lambda path: save(_factors(report), path))
    over = "seeds" if len(report["seeds"]) > 1 else "texts"
    return {
        "factors.png": f"Every cell with its 95 % interval over {over}, the paper's own choice filled; dashed: the paper's figure"
    }


def _factors(report: dict) -> Any:
    """A row a cell."""
    figure, axes = subplots(len(NAMES), len(_FIGURES), size=(11, 7), squeeze=False)
    for row, arm in enumerate(NAMES):
        cells = [cell for cell in report["cells"] if cell["arm"] == arm]
        for axis, (key, label) in zip(axes[row], _FIGURES.items(), strict=True):
            for place, cell in enumerate(cells):
                _point(axis, cell, key, place, own=place == 0)
            axis.axvline(report["paper"]["arms"][arm][key], **REFERENCE)
            axis.set_yticks(range(len(cells)), [_label(cell) for cell in cells], fontsize=8)
            axis.invert_yaxis()
            axis.set_xlim(-0.03, 1.03)
            axis.set_xlabel(label)
            axis.set_title(f"{NAMES[arm]} (dashed: the paper's {NAMES[arm]})", fontsize=10)
            finish(axis)
    return figure


def _label(cell: dict) -> str:
    return ", ".join(LABELS[cell[key]] for key in ("layout", "length", "variant"))


def _point(axis: Any, cell: dict, key: str, place: int, own: bool) -> None:
    if not cell["figures"]:
        axis.text(0.5, place, "missing", ha="center", va="center", fontsize=8)
        return
    value, (low, high) = cell["figures"][key], cell["figures"][f"{key}_ci"]
    colour = ARMS[NAMES[cell["arm"]]]
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axis.errorbar(value, place, xerr=error, fmt="o", ms=7, capsize=4, color=colour, mfc=colour if own else "white")
