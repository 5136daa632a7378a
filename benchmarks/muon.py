"""A step of Muon on the matrices of the shipped models: PyTorch's, in bfloat16, and ours, in float32; in turns.

`python -m benchmarks.muon`
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch

from arche_mdlm.training.loop.muon import Float32Muon
from benchmarks.timing import compare, interleave, rates

_SHAPES = ((192, 192),) * 16 + ((512, 192),) * 8 + ((192, 512),) * 4  # 4 layers of the presets `mini`


def stepper(kind: type[torch.optim.Muon]) -> Callable[[], None]:
    """A step of an optimiser of random matrices with random gradients."""
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in _SHAPES]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    return kind(matrices).step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    contestants = {"bfloat16": stepper(torch.optim.Muon), "float32": stepper(Float32Muon)}
    seconds = interleave(contestants, args.turns, torch.device("cpu"))
    print(", ".join(f"{name} {median(own):.3f} s" for name, own in seconds.items()), "a step")
    ratio, low, high = compare(*(rates(1, seconds[name]) for name in ("float32", "bfloat16")))
    print(f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}), CPU capability {torch.backends.cpu.get_cpu_capability()}")


if __name__ == "__main__":
    main()
