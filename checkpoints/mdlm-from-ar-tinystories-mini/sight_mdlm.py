"""Which positions a position sees, as data: one rule over four whole numbers a position makes every attention mask.

`sees(q, k) = document[q] == document[k] and (write[k] <= read[q] or group[k] == group[q])`

| mask | document | write | read | group |
|---|---|---|---|---|
| full | 0 | 0 | 0 | 0 |
| packed documents | number of the document | 0 | 0 | 0 |
| block-causal | 0 | block | block | block |
| in order of rank | 0 | rank | rank | rank |
| noisy rows beside clean ones | see `sight_beside_clean` | | | |
"""

from collections.abc import Callable
from typing import NamedTuple

import torch


class Sight(NamedTuple):
    """Four numbers of each of L positions, each (B, L) int64: contiguous tensors of their own, as compiled attention wants them.

    Args:
        document: positions see their own document only.
        write: what a position's token adds is seen by those whose `read` is at least this.
        read: see `write`.
        group: positions of one group see each other whatever `write` and `read` say.
        span: how far back `write` may lie behind `read`; None: any. A number for all positions.
    """

    document: torch.Tensor
    write: torch.Tensor
    read: torch.Tensor
    group: torch.Tensor
    span: int | None = None

    def mask_function(self) -> Callable[..., torch.Tensor]:
        """The rule as transformers' masking utilities call it: (row, head, query, key) to bool."""
        document, write, read, group, span = self

        def sees(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            queries = document[row, query], read[row, query], group[row, query]
            return _sees(*queries, document[row, key], write[row, key], group[row, key], span)

        return sees

    def window(self, columns: torch.Tensor) -> torch.Tensor:
        """(R, W, L) bool: what the positions in `columns` (R, W) see of the L."""
        document, read, group = (
            values.gather(1, columns)[..., None] for values in (self.document, self.read, self.group)
        )
        return _sees(document, read, group, self.document[:, None], self.write[:, None], self.group[:, None], self.span)


def _sees(
    document: torch.Tensor,
    read: torch.Tensor,
    group: torch.Tensor,
    key_document: torch.Tensor,
    key_write: torch.Tensor,
    key_group: torch.Tensor,
    span: int | None,
) -> torch.Tensor:
    """The rule: whether queries see keys, both by their numbers."""
    near = key_write <= read
    if span is not None:
        near = near & (key_write > read - span)
    return (key_document == document) & (near | (key_group == group))


class Pairs(NamedTuple):
    """Who sees whom, spelled out: what no four numbers tell.

    Args:
        sees: (B, L, L) bool, or (1, L, L) for all rows, query before key.
    """

    sees: torch.Tensor

    def mask_function(self) -> Callable[..., torch.Tensor]:
        """As `Sight.mask_function`."""
        sees = self.sees
        every = 0 if len(sees) == 1 else 1

        def look_up(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return sees[row * every, query, key]

        return look_up


def sight_from(values: torch.Tensor) -> Sight | Pairs:
    """A sight by its numbers (B, 4, L), or by its pairs (B or 1, L, L) bool: tensors alone go through data loaders."""
    if values.dtype == torch.bool:
        return Pairs(values)
    document, write, read, group = (numbers.contiguous() for numbers in values.unbind(1))
    return Sight(document, write, read, group)


def sight_of(
    position_ids: torch.Tensor, packed: bool, block_length: int | None, context: int | None = None
) -> Sight | None:
    """The sight of positions (B, L): of packed documents, each of which counts from its own start, of blocks of so many
    positions, or of both; None where everything sees everything. In a row longer than the `context` that the model has learnt, a
    block sees those before it that lie within the context: the window slides by blocks."""
    if not packed and block_length is None:
        return None
    zeros = torch.zeros_like(position_ids)
    document = documents_of(position_ids) if packed else zeros
    block = zeros if block_length is None else position_ids // block_length
    span = None
    if block_length is not None and context is not None and position_ids.shape[1] > context:
        span = max(1, context // block_length)
    return Sight(document, block.contiguous(), block.clone(), block.clone(), span)


def sight_beside_clean(step: torch.Tensor) -> torch.Tensor:
    """(B, 4, 2 L) of noisy rows and the clean ones behind them, [z ; x], whose positions are written at `step` (B, L), from 0.

    A noisy position sees the noisy ones of its own step and the clean ones of steps before it; a clean one the clean ones up
    to its own step.
    """
    width = step.shape[1]
    clean_half = torch.arange(2 * width, device=step.device) >= width
    twice, index = step.repeat(1, 2), torch.arange(2 * width, device=step.device)
    return torch.stack([
        torch.zeros_like(twice),
        torch.where(clean_half, twice, 2 * width),  # what is noisy is not seen from other steps
        torch.where(clean_half, twice, twice - 1),
        torch.where(clean_half, -1 - index, twice),
    ], dim=1)  # fmt: skip


def documents_of(position_ids: torch.Tensor) -> torch.Tensor:
    """Which document of its row each position (B, L) belongs to: another one begins where `position_ids` do not go on."""
    return (position_ids.diff(dim=-1, prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)


def real_positions(attended: torch.Tensor) -> torch.Tensor:
    """Position ids (..., L) that count real tokens only, those where `attended` (..., L) is not 0: left padding shifts nothing."""
    return (attended.long().cumsum(-1) - 1).clamp(min=0)


def positions_from_mask(attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor:
    """Position ids (B, L) by an attention mask (B, L), or (1, L) without one."""
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
    return real_positions(attention_mask)
