"""Which positions of given rows a likelihood scores, and what is refused of rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from arche_mdlm.metrics.batch_sizes import BatchSize
from arche_mdlm.offset_mdlm import check_predictable
from arche_mdlm.sight_mdlm import real_positions


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the time of a with block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def checked_mask(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, batch_size: int | str | BatchSize
) -> torch.Tensor:
    """The attention mask (B, L), ones by default; ValueError for wrong shapes or values."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids of shape {tuple(input_ids.shape)} must be (rows, length)")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask of shape {tuple(attention_mask.shape)} must be {tuple(input_ids.shape)}")
    if isinstance(batch_size, int) and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    return attention_mask


def checked_clean(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    batch_size: int | str | BatchSize,
) -> torch.Tensor:
    """`checked_mask`, and ValueError for a row that holds the model's mask token."""
    attention_mask = checked_mask(input_ids, attention_mask, batch_size)
    held = (input_ids == model.config.mask_token_id) & attention_mask.bool()
    if bool(held.any()):
        row = int(held.any(-1).nonzero()[0])
        raise ValueError(f"row {row} of input_ids holds mask_token_id={model.config.mask_token_id}; give clean tokens")
    return attention_mask


def scored_positions(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: PreTrainedConfig,
    condition_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """(B, L) bool: attended positions but a leading BOS and what `condition_mask` gives.

    ValueError for a row that has none, or cannot be predicted, and for given positions that the model does not condition on.
    """
    bos_token_id = config.bos_token_id
    attended = attention_mask.bool()
    first = attended & (attended.long().cumsum(-1) == 1)
    scored = attended & ~(first & (input_ids == (-1 if bos_token_id is None else bos_token_id)))
    if not bool(scored.any(-1).all()):
        row = int((~scored.any(-1)).nonzero()[0])
        raise ValueError(f"row {row} of input_ids has no token to score")
    if condition_mask is not None:
        scored = without_given(scored, condition_mask)
        _check_seen(config, scored, attended)
    check_predictable(config, scored, attention_mask)
    return scored


def first_positions(counts: Sequence[int], length: int) -> torch.Tensor:
    """(N, L) bool, the first `counts` positions of each of N rows of a `length`."""
    return torch.arange(length) < torch.tensor(list(counts), dtype=torch.long)[:, None]


def without_given(scored: torch.Tensor, condition_mask: torch.Tensor) -> torch.Tensor:
    """Positions of `scored` (B, L) that `condition_mask` (B, L) does not give; ValueError for a wrong mask, or a row without one."""
    if not isinstance(condition_mask, torch.Tensor) or condition_mask.dtype != torch.bool:
        kind = condition_mask.dtype if isinstance(condition_mask, torch.Tensor) else type(condition_mask).__name__
        raise ValueError(f"condition_mask is {kind}; give a bool tensor, True at given tokens")
    if condition_mask.shape != scored.shape:
        raise ValueError(f"condition_mask of shape {tuple(condition_mask.shape)} must be {tuple(scored.shape)}")
    scored = scored & ~condition_mask.to(scored.device)
    if not bool(scored.any(-1).all()):
        row = int((~scored.any(-1)).nonzero()[0])
        raise ValueError(f"condition_mask gives all tokens of row {row}; leave at least one to score")
    return scored


def check_given_first(scored: torch.Tensor, given: torch.Tensor, step: torch.Tensor, why: str) -> None:
    """ValueError where a given position (B, L) has a later `step` (B, L) than one that is scored, which then does not see it."""
    last = step.masked_fill(~given, -1).amax(-1)
    first = step.masked_fill(~scored, torch.iinfo(step.dtype).max).amin(-1)
    if bool((last > first).any()):
        row = int((last > first).nonzero()[0])
        raise ValueError(
            f"condition_mask gives tokens of row {row} after scored tokens: {why}, so the result would not be "
            "the likelihood given them. The prompt must be before the answer"
        )


def _check_seen(config: PreTrainedConfig, scored: torch.Tensor, attended: torch.Tensor) -> None:
    """ValueError for given positions in a later block than scored ones, of a model that goes from block to block."""
    length = getattr(config, "attention_block_length", None)
    if length is not None:
        block = real_positions(attended) // length
        why = f"with diffusion={config.diffusion!r} a block of {length} tokens sees no later one"
        check_given_first(scored, attended & ~scored, block, why)
