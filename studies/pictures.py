"""Whether pictures can be drawn here: matplotlib is an extra."""

NO_PICTURES = "*No pictures: matplotlib is not installed (`pip install arche-mdlm[plot]`).*"


def can_draw() -> bool:
    """Whether matplotlib is there; it then draws into files, as there may be no screen."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    return True
