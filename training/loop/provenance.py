"""How a result was made: command, preset, data, versions, machine; without anything local to one machine, such as paths."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from arche_mdlm.configuration.settings import Preset
    from arche_mdlm.training.data.corpus import Corpus


def portable(value: Any) -> Any:
    """`value` (nested dicts and lists) with every absolute path cut down to its last part, also one behind `NAME=`."""
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(inner) for inner in value]
    if isinstance(value, str):
        name, sign, path = value.rpartition("=")
        if os.path.isabs(value):
            return Path(value).name
        if os.path.isabs(path):
            return f"{name}{sign}{Path(path).name}"
    return value


def cpu_name() -> str:
    """The processor's name as its maker has it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_run(
    preset: "Preset",
    corpus: "Corpus",
    model: torch.nn.Module,
    accelerator: "Accelerator",
    strategy: str,
    init_from: str | None,
    command: str,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The provenance of a training run, as `run.json` has it. `init_from`: a local folder is known by its name alone; `before`: what its
    training has cost (`training.models.cost`)."""
    on_gpu = accelerator.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    data = {"train": corpus.train.summary.to_dict(), "validation": corpus.validation.summary.to_dict()}
    return {
        "command": command,
        "preset": portable(preset.to_dict()),
        "init_from": Path(init_from).name if init_from and Path(init_from).is_dir() else init_from,
        "before": before,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": portable(data),
        "device": device,
        "processes": accelerator.num_processes,
        "strategy": strategy,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
