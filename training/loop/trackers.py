"""Where a run's figures are reported: TensorBoard's files in its folder, and any other tracker that Accelerate knows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType

TENSORBOARD = "tensorboard"
_PROJECT = "arche-mdlm"
_PACKAGES = {"comet_ml": "comet-ml"}  # where the package has another name than the tracker


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for a tracker that Accelerate does not know, or whose package is not installed."""
    built_in = {str(kind.value) for kind in LoggerType} - {"all"}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(built_in | set(LOGGER_TYPE_TO_CLASS)))
            raise ValueError(f"--report_to={name!r} is not one of {known}, or none")
        if name in built_in and LoggerType(name) not in get_available_trackers():
            package = _PACKAGES.get(name, name)
            raise ValueError(f"--report_to={name!r} needs a package that is not installed: pip install {package}")
    if len(set(names)) < len(names):
        raise ValueError(f"--report_to={','.join(names)} names a tracker twice")


def trackers_of(names: Sequence[str], output_dir: Path) -> list[str | GeneralTracker]:
    """`Accelerator(log_with=)`: TensorBoard's files are in `output_dir`/tensorboard, whatever else there is."""
    return [TensorBoardTracker(TENSORBOARD, str(output_dir)) if name == TENSORBOARD else name for name in names]


def start_trackers(accelerator: Accelerator, names: Sequence[str], run_name: str, settings: Mapping[str, Any]) -> None:
    """Start those of an accelerator; all but TensorBoard are told the run's settings, flat, and its name where they take one."""
    others = [name for name in names if name != TENSORBOARD]
    accelerator.init_trackers(_PROJECT, init_kwargs={"wandb": {"name": run_name}, "mlflow": {"run_name": run_name}})
    for tracker in accelerator.trackers:
        if tracker.name in others:
            tracker.store_init_configuration(dict(_flat(settings)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted name; anything but numbers and texts is written as text."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found
