"""Peak memory and speed of a training step, in a process of its own: ordered by JSON on its standard input, answers in JSON."""

import json
import os
import resource
import subprocess
import sys
import time
from statistics import median

import torch

from arche_mdlm.configuration.settings import DataSettings, ModelSettings, Preset, TrainingSettings
from benchmarks import train_step
from benchmarks.report import REPOSITORY


def measure(shape: train_step.Shape, arm: str, way: str, dtype: str, device: torch.device, timed: int = 0) -> dict:
    """`peak_bytes` of two steps of an arm, "ours" or the "paper" way, and with `timed` steps `tokens_per_second` of them.

    Bytes are those of weights, gradients, optimiser and activations; on a CPU all that the process has grown by since its
    imports. Raises RuntimeError with the process's errors if it fails.
    """
    order = {"arm": arm, "way": way, "dtype": dtype, "device": str(device), "threads": torch.get_num_threads(), "timed": timed,
             "mdlm": shape.mdlm.to_dict(), "ar": shape.ar.to_dict(), "batch_size": shape.batch_size,
             "length": shape.length, "layout": shape.layout}  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.memory"]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(f"measuring {arm}, {way} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def main() -> None:
    order = json.load(sys.stdin)
    device = torch.device(order["device"])
    torch.set_num_threads(order["threads"])
    shape = train_step.Shape(
        _preset(order["mdlm"]), _preset(order["ar"]), order["batch_size"], order["length"], order["layout"]
    )
    before = _resident()
    if order["way"] == "ours":
        step, tokens = train_step.our_step(shape, order["arm"], order["dtype"], device)
    else:
        step, tokens = train_step.paper_step(shape, order["arm"], device)
    for _ in range(2):  # the optimiser's state is there from the second one on
        step()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = peak_resident() - before
    answer = {"peak_bytes": peak}
    if order["timed"]:
        answer["tokens_per_second"] = tokens / median(_seconds(step, device) for _ in range(order["timed"]))
    print(json.dumps(answer))


def _seconds(step, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


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


def peak_resident() -> int:
    """Bytes. Not getrusage's on Linux: that begins at what the parent had, in a process that it has started."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
