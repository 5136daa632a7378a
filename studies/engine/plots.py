"""Pictures with matplotlib, which is an extra: it is imported when the first one is drawn."""

from pathlib import Path
from typing import Any

from arche_mdlm.configuration.extras import install_command

NO_PICTURES = f"*No pictures: matplotlib is not installed (`{install_command('plot')}`).*"
REFERENCE = {"ls": "--", "color": "0.35", "lw": 1.1}  # the line of held-out stories, or of the paper


def can_draw() -> bool:
    """Whether matplotlib is installed; sets it to draw into files, without a screen."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    return True


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """(figure, axes), as matplotlib's; `size` in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def finish(axis: Any, legend: bool = False) -> None:
    """The look of all axes: a light grid, no frame at the top and on the right."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        axis.legend(frameon=False)


def save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)
