"""Whether pictures can be drawn here: matplotlib is an extra."""

from arche_mdlm.configuration.extras import install_command

NO_PICTURES = f"*No pictures: matplotlib is not installed (`{install_command('plot')}`).*"


def can_draw() -> bool:
    """Whether matplotlib is there; it then draws into files, as there may be no screen."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    return True
