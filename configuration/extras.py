"""Optional packages: which ones an extra of setup.py has, as a command that installs them."""

import shlex
from importlib.metadata import PackageNotFoundError, requires


def install_command(extra: str, *names: str) -> str:
    """Like "pip install 'rich>=13'": the packages of an extra, or those of them that are named.

    They are taken from the metadata of the installed arche-mdlm, so that they are always the ones it wants. The project
    is not on PyPI: `pip install arche-mdlm[judge]` would find nothing.
    """
    from packaging.requirements import Requirement

    try:
        found = [Requirement(line) for line in requires("arche-mdlm") or []]
    except PackageNotFoundError:  # the source folders on the path, without an installation
        return "pip install " + shlex.join(names) if names else f"pip install of the packages of {extra!r} in setup.py"
    own = [r for r in found if r.marker is not None and r.marker.evaluate({"extra": extra})]
    wanted = [r for r in own if r.name in names] if names else own
    return "pip install " + shlex.join(f"{r.name}{r.specifier}" for r in wanted)
