"""A step of Muon on the matrices of the shipped models: PyTorch's, in bfloat16, and ours, in float32; in turns.

`python -m benchmarks.muon`
"""

import argparse
import time

import torch

from arche_mdlm.training.loop.muon import Float32Muon

_SHAPES = ((192, 192),) * 16 + ((512, 192),) * 8 + ((192, 512),) * 4  # 4 layers of the presets `mini`


def seconds(kind: type[torch.optim.Muon], shapes: tuple[tuple[int, int], ...] = _SHAPES) -> float:
    """Of one step."""
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    optimizer = kind(matrices)
    optimizer.step()
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pairs = [(seconds(torch.optim.Muon), seconds(Float32Muon)) for _ in range(args.turns)]
    ratios = sorted(first / second for first, second in pairs)
    print(
        f"bfloat16 {sorted(p[0] for p in pairs)[len(pairs) // 2]:.3f} s, float32 {sorted(p[1] for p in pairs)[len(pairs) // 2]:.3f} s a step"
    )
    print(
        f"ratio {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), CPU capability {torch.backends.cpu.get_cpu_capability()}"
    )


if __name__ == "__main__":
    main()
