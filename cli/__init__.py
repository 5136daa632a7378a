"""The program `arche-mdlm`, outside of the package `arche_mdlm`, whose import loads torch and registers the models.

So `--help`, `--version` and a slip of the finger are answered at once: the command line is read with the package's own
`__init__` not run yet, and it runs before a command begins.
"""

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType

PACKAGE = "arche_mdlm"


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit status of `arche_mdlm.commands.main.main`."""
    package = _not_loaded_yet()
    from arche_mdlm.commands.main import main as run

    return run(argv, before=lambda: _load(package))


def _not_loaded_yet() -> ModuleType | None:
    """Put the package in its place without running its `__init__`; None where it is loaded already."""
    if PACKAGE in sys.modules:
        return None
    spec = find_spec(PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"the package {PACKAGE} is not installed")
    package = sys.modules[PACKAGE] = module_from_spec(spec)
    return package


def _load(package: ModuleType | None) -> None:
    if package is not None and package.__spec__ is not None and package.__spec__.loader is not None:
        package.__spec__.loader.exec_module(package)


if __name__ == "__main__":
    sys.exit(main())
