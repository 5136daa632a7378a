"""Head and cross-entropy in one, a chunk of positions at a time: the logits of a batch never exist at once.

The idea is that of Liger-Kernel (Hsu et al. 2024, arXiv 2410.10989) and of Cut Cross-Entropy (Wijmans et al. 2024,
arXiv 2411.09009): softmax minus one-hot is the gradient of the logits, so it is made from them in place, in the forward pass,
and multiplied out before the next chunk's logits take their memory. Nothing is computed twice.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .token_loss_mdlm import CrossEntropy, TokenLoss

# Logits held at once: enough for efficient matrix products.
_CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 27}
# Logits that fit the caches of a CPU, which goes over them several times.
_CACHED_LOGITS = 1 << 20
# Positions at once for a head that has to be called: its width is not known.
_CALLED_POSITIONS = 1024


class _HeadLoss(torch.autograd.Function):
    """sum_i coefficient_i * loss_i, and the losses, of which no gradient is taken."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        token_loss: TokenLoss,
        coefficients: torch.Tensor,
        chunk: int,
        differentiate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = _compute_dtype(states)
        head = weight.to(dtype)
        inputs = states.to(dtype)
        nll = torch.empty(len(states), dtype=torch.float32, device=states.device)
        d_states = torch.empty_like(inputs) if differentiate else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if differentiate else None
        # One piece of memory for all chunks: fresh pages cost a CPU more than what is computed on them.
        memory = inputs.new_empty(min(chunk, len(states)), len(head))
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            rows = inputs[part]
            logits = torch.mm(rows, head.T, out=memory[: len(rows)]).float()
            factors = coefficients[part] if differentiate else None
            nll[part] = _losses_and_gradient_in_place(logits, token_loss.part(part), factors)
            if d_states is not None and d_weight is not None:
                gradient = logits.to(dtype)
                d_states[part] = gradient @ head
                if dtype == torch.float32:
                    d_weight.addmm_(gradient.T, rows)
                else:
                    d_weight += gradient.T @ rows
        if d_states is not None and d_weight is not None:
            ctx.save_for_backward(d_states.to(states.dtype), d_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nll)
        return (nll * coefficients).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        d_states, d_weight = ctx.saved_tensors
        # In place; autograd raises an error if backward is called twice.
        return d_states.mul_(d_loss), d_weight.mul_(d_loss), None, None, None, None


def _compute_dtype(states: torch.Tensor) -> torch.dtype:
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _losses_and_gradient_in_place(
    logits: torch.Tensor, token_loss: TokenLoss, coefficients: torch.Tensor | None
) -> torch.Tensor:
    """Losses (n,) of float32 logits (n, V). The logits are overwritten, with coefficients (n,) by their gradient."""
    rows = max(1, _CACHED_LOGITS // logits.shape[-1]) if logits.device.type == "cpu" else max(1, len(logits))
    losses = []
    for start in range(0, len(logits), rows):
        few = slice(start, start + rows)
        factors = None if coefficients is None else coefficients[few]
        losses.append(token_loss.part(few).in_place(logits[few], factors))
    return torch.cat(losses)


@torch.compiler.disable
def head_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor | TokenLoss,
    coefficients: torch.Tensor | None = None,
    forbidden_id: int | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, nll): the weighted sum of N losses in nats, and each of them (N,), float32, without gradient.

    Equal to the plain way up to rounding; a gradient of the gradient does not exist. Matrix products run in the type of
    autocast, if it is on, all else in float32.

    Args:
        states (`torch.Tensor`, (N, H)): hidden states.
        weight (`torch.Tensor`, (V, H)): the head's.
        targets (`torch.LongTensor` or `TokenLoss`, (N,)): token ids below V, whose cross-entropies are the losses; or any
            other losses.
        coefficients (`torch.Tensor`, (N,), *optional*): factors of the losses; 1.
        forbidden_id (`int`, *optional*): a token of probability zero (the mask); it may lie past a narrow head. A `TokenLoss`
            has its own.
        chunk (`int`, *optional*): positions whose logits exist at once; results are equal up to rounding.

    Raises:
        ValueError: for numbers of states, targets and coefficients that differ.
    """
    if coefficients is None:
        coefficients = torch.ones(len(states), device=states.device)
    token_loss = _token_loss(targets, forbidden_id)
    if not len(states) == len(token_loss.targets) == len(coefficients):
        raise ValueError(
            f"{len(states)} states, {len(token_loss.targets)} targets and {len(coefficients)} coefficients: give one a position"
        )
    if chunk is None:
        chunk = max(1, _CHUNK_LOGITS.get(states.device.type, 1 << 27) // len(weight))
    differentiate = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    return _HeadLoss.apply(states, weight, token_loss, coefficients.float(), chunk, differentiate)


def is_plain(module: nn.Module, states: torch.Tensor) -> bool:
    """Whether calling a head on `states` computes exactly `states @ module.weight.T`.

    An adapter, a quantised, sharded or offloaded weight, a bias, a hook or an exchanged forward all do more: such a head has to
    be called, and its weight says nothing.
    """
    if type(module) is not nn.Linear or module.bias is not None or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and type(module.weight) is nn.Parameter and module.weight.device == states.device


@torch.compiler.disable
def module_loss(
    head: nn.Module,
    states: torch.Tensor,
    targets: torch.Tensor | TokenLoss,
    coefficients: torch.Tensor | None = None,
    forbidden_id: int | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`head_loss` of any head, a module that maps (n, H) to (n, V); one that is not plain is called on a chunk at a time.

    Its logits are made again in the backward pass, so those of a batch never exist at once here either.
    """
    if is_plain(head, states):
        return head_loss(states, head.weight, targets, coefficients, forbidden_id, chunk)
    if coefficients is None:
        coefficients = torch.ones(len(states), device=states.device)

    token_loss = _token_loss(targets, forbidden_id)

    def chunk_nll(part: torch.Tensor, where: slice) -> torch.Tensor:
        return token_loss.part(where).plain(head(part).float())

    size = _CALLED_POSITIONS if chunk is None else chunk
    parts = [slice(start, start + size) for start in range(0, max(len(states), 1), size)]
    nll = torch.cat([checkpoint(chunk_nll, states[part], part, use_reentrant=False) for part in parts])
    return (nll * coefficients.float()).sum(), nll.detach()


def _token_loss(targets: torch.Tensor | TokenLoss, forbidden_id: int | None) -> TokenLoss:
    return targets if isinstance(targets, TokenLoss) else CrossEntropy(targets, forbidden_id)
