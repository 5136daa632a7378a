"""Peak memory of a training step: a process of its own, ordered by JSON on its standard input, answers in JSON."""

import json
import os
import resource
import sys

import torch

from arche_mdlm.configuration.presets import DataSettings, ModelSettings, Preset, TrainingSettings
from benchmarks import train_step


def main() -> None:
    order = json.load(sys.stdin)
    device = torch.device(order["device"])
    torch.set_num_threads(order["threads"])
    shape = train_step.Shape(_preset(order["mdlm"]), _preset(order["ar"]), order["batch_size"], order["length"])
    before = _resident()
    if order["way"] == "ours":
        step, _ = train_step.our_step(shape, order["arm"], order["dtype"], device)
    else:
        step, _ = train_step.paper_step(shape, order["arm"], device)
    for _ in range(2):  # the optimiser's state is there from the second one on
        step()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    print(json.dumps({"peak_bytes": peak}))


def _preset(values: dict) -> Preset:
    """The inverse of `Preset.to_dict`."""
    parts = {"model": ModelSettings, "data": DataSettings, "training": TrainingSettings}
    return Preset(**values | {name: kind(**values[name]) for name, kind in parts.items()})


def _resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main()
