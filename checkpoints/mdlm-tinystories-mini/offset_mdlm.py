"""Which output predicts a position: its own, or with `prediction_offset` 1 that of the position before it, as in an AR model.

Source of the latter: DiffuLLaMA (Gong et al. 2024, arXiv 2410.17891) and Dream (Ye et al. 2025, arXiv 2508.15487).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


def predicting_states(
    run: Callable[[torch.Tensor | None], torch.Tensor],
    positions: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    offset: int,
) -> torch.Tensor:
    """States that predict what stands at `positions`: (N, H), or (B, L, H) for None, where a position without one before it has the state
    of its row's first column, which predicts nothing.

    Args:
        run: gives the states (N, H) at positions, and (B, L, H) at None.
        positions: (B, L) bool, or (N,) flat indices, or None for all.
        attention_mask: (B, L), 0 at padding: it is passed over.
        offset: 0 or 1.
    """
    if positions is not None:
        return run(outputs_for(positions, attention_mask, offset))
    states = run(None)
    if not offset:
        return states
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.cat([states[:, :1], states[:, :-1]], dim=1)
    before = previous(attention_mask).clamp(min=0)
    return states.gather(1, before[..., None].expand_as(states))


def outputs_for(positions: torch.Tensor, attention_mask: torch.Tensor | None, offset: int) -> torch.Tensor:
    """Where the outputs stand that predict `positions`, in their form and order; see `predicting_states`."""
    if not offset:
        return positions
    indexed = positions.dtype != torch.bool
    if attention_mask is None or attention_mask.dim() != 2:
        return (positions - 1).clamp(min=0) if indexed else F.pad(positions[:, 1:], (0, 1))
    before = previous(attention_mask).clamp(min=0)
    if indexed:
        width = before.shape[1]
        return positions - positions % width + before.flatten()[positions]
    wanted = torch.zeros_like(before).scatter_reduce(1, before, positions.long(), "amax")
    return wanted.bool()


def previous(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, L): the column of the last attended position before each; -1 for none."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = torch.where(attention_mask.bool(), columns, -1).cummax(dim=1).values
    return F.pad(last[:, :-1], (1, 0), value=-1)


def check_predictable(
    config: Any,
    wanted: torch.Tensor | None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> None:
    """ValueError with `prediction_offset` 1 for a wanted position that has none before it.

    Args:
        config: of the model.
        wanted: (B, L) bool; anything else is not looked at, as a GPU would have to wait for it.
        attention_mask: (B, L), 0 at padding.
        position_ids: (B, L), without a mask: another document starts where they do not go on.
    """
    if not getattr(config, "prediction_offset", 0) or wanted is None or wanted.dtype != torch.bool:
        return
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or wanted.device.type == "meta":
        return
    if attention_mask is not None and attention_mask.dim() == 2:
        alone = (previous(attention_mask) < 0) | (attention_mask == 0)
    else:
        alone = torch.zeros_like(wanted)
        alone[:, 0] = True
        if position_ids is not None and attention_mask is None:
            alone[:, 1:] |= position_ids.diff(dim=-1) != 1
    found = (wanted & alone.to(wanted.device)).nonzero()
    if len(found):
        row, column = found[0].tolist()
        raise ValueError(
            f"position {column} of row {row} cannot be predicted: it is padding or has no token before it: this model has prediction_offset=1, so what "
            "stands at a position is read from the position before. Begin each text with a BOS or another given token"
        )
