"""Muon whose orthogonalisation is done in float32, for processors that are slow in bfloat16."""

import math
from collections.abc import Callable
from typing import Any

import torch


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon`, but for the precision of the Newton-Schulz iterations: PyTorch's are always in bfloat16.

    A CPU without bfloat16 units takes ten times as long for them as for these. Settings and states are those of PyTorch's,
    so a run can go on with either. Its `adjust_lr_fn` is not taken: the rate is adjusted as by default ("original").
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the loss of `closure` where it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        update = orthogonalised(update.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonalised(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Near the nearest semi-orthogonal matrix: `steps` Newton-Schulz iterations with the coefficients (a, b, c) of the polynomial
    a x + b x^3 + c x^5 of the singular values (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/). In the precision of `matrix`, (rows, columns)."""
    a, b, c = coefficients
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
