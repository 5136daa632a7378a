"""The picture of the paper's protocol: every cell of both factor tables beside the paper's own figure."""

from pathlib import Path

import matplotlib.pyplot as plt

from arche_mdlm.studies.arche.factors import LABELS, NAMES

_FIGURES = {"distinct_openings": "distinct five-word openings", "self_bleu": "Self-BLEU, as the paper's code has it"}
_COLOURS = {"ar": "#0072B2", "mdlm": "#D55E00"}  # Okabe and Ito


def draw_factors(report: dict, path: Path) -> None:
    """A row a cell, the paper's own choice filled, 95 % intervals over texts; dashed: the paper's figure."""
    arms = list(_COLOURS)
    figure, axes = plt.subplots(len(arms), len(_FIGURES), figsize=(11, 7), layout="constrained", squeeze=False)
    for row, arm in enumerate(arms):
        cells = [cell for cell in report["cells"] if cell["arm"] == arm]
        for axis, (key, label) in zip(axes[row], _FIGURES.items(), strict=True):
            for place, cell in enumerate(cells):
                _point(axis, cell, key, place, own=place == 0)
            axis.axvline(report["paper"]["arms"][arm][key], ls="--", color="0.4", lw=1.2)
            axis.set_yticks(range(len(cells)), [_label(cell) for cell in cells], fontsize=8)
            axis.invert_yaxis()
            axis.set_xlim(-0.03, 1.03)
            axis.set_xlabel(label)
            axis.set_title(f"{NAMES[arm]} (dashed: the paper's {NAMES[arm]})", fontsize=10)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(cell: dict) -> str:
    return ", ".join(LABELS[cell[key]] for key in ("layout", "length", "variant"))


def _point(axis, cell: dict, key: str, place: int, own: bool) -> None:
    if not cell["figures"]:
        axis.text(0.5, place, "missing", ha="center", va="center", fontsize=8)
        return
    value, (low, high) = cell["figures"][key], cell["figures"][f"{key}_ci"]
    colour = _COLOURS[cell["arm"]]
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axis.errorbar(value, place, xerr=error, fmt="o", ms=7, capsize=4, color=colour, mfc=colour if own else "white")
