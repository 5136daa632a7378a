"""How long each row of a canvas is, and which block each of its positions belongs to."""

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)


def least_tokens(
    lengths: torch.Tensor, extra: torch.Tensor, min_new_tokens: int | None, min_length: int | None
) -> torch.Tensor | None:
    """(B,) minimum number of tokens of each row, prompt counted; None for no minimum. `lengths` (B,) are the prompts',
    `extra` (B,) the new tokens."""
    if not (min_new_tokens or min_length):
        return None
    if min_new_tokens and min_new_tokens > int(extra.min()):
        raise ValueError(f"min_new_tokens={min_new_tokens} is more than the {int(extra.min())} new tokens of a row")
    if min_length and min_length > int((lengths + extra).min()):
        raise ValueError(f"min_length={min_length} is more than the {int((lengths + extra).min())} tokens of a row")
    return (lengths + (min_new_tokens or 0)).clamp(min=min_length or 0)


def aligned_blocks(
    masked: torch.Tensor, position_ids: torch.Tensor, block_length: int, seen: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(block, window), each (B, L), for a block-causal model: blocks begin at multiples of `block_length` positions, and the
    prompt's part of one is in its window. ValueError for a length that cuts the model's own blocks of `seen` positions."""
    if block_length % seen:
        raise ValueError(f"block_length={block_length} is not a multiple of this model's attention_block_length={seen}")
    absolute = position_ids // block_length
    first = absolute.masked_fill(~masked, position_ids.shape[1]).amin(-1, keepdim=True)
    window = absolute - first
    return window.masked_fill(~masked, -1), window


def even_blocks(masked: torch.Tensor, block_length: int | None) -> torch.Tensor:
    """(B, L): number of the block of each masked position, -1 elsewhere. Each row counts its own masks, left to right."""
    if block_length is None:
        return torch.where(masked, 0, -1)
    longest = int(masked.sum(-1).max())
    if 0 < longest < block_length:
        raise ValueError(f"block_length={block_length} is longer than the {longest} positions to fill")
    return torch.where(masked, (masked.long().cumsum(-1) - 1) // int(block_length), -1)


def new_tokens_per_row(
    attended: torch.Tensor, new_tokens: tuple[str, int, bool], context: int | None, given_masks: torch.Tensor
) -> torch.Tensor:
    """Masks (B,) to append to each row; ValueError where an explicit length does not fit the context, if there is one."""
    kind, number, is_default = new_tokens
    lengths = attended.sum(-1)
    longest = int(lengths.max())
    context = longest + number if context is None else context
    if longest > context:
        raise ValueError(f"the longest prompt has {longest} tokens, more than the model's context of {context}")
    if kind == "new" and number + longest > context:
        if not is_default:
            raise ValueError(
                f"max_new_tokens={number} does not fit after a prompt of {longest} tokens: the context is {context}"
            )
        logger.warning_once(f"the default of {number} new tokens is clipped to the model's context of {context}")
        return (context - lengths).clamp(max=number)
    if kind == "new":
        return torch.full_like(lengths, number)
    if number > context:
        if not is_default:
            raise ValueError(f"max_length={number} is more than the model's context of {context}")
        logger.warning_once(f"the default length of {number} tokens is clipped to the model's context of {context}")
        number = context
    if number <= longest and not bool(given_masks.any()):
        if not is_default:
            raise ValueError(f"max_length={number} leaves no room after a prompt of {longest} tokens")
        raise ValueError(f"a prompt of {longest} tokens leaves no room in the default length of {number} tokens")
    return (number - lengths).clamp(min=0)
