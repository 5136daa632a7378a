"""Which rows make up step s, on how long a canvas: a pure function of (seed, step), so that resuming is exact, the
result is independent of the number of processes, and both arms see the same rows in the same order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class BatchPlan(NamedTuple):
    """One global batch, before any text is read."""

    step: int
    rows: list[int]  # indices of the data set
    canvas_length: int  # of the diffusion arm; the longest row <= canvas_length <= context_length
    num_real_tokens: int  # all tokens but the leading BOS of each row


@dataclass(frozen=True)
class BatchPlanner:
    """Plans batches over rows of the given `lengths` (tokens, BOS included).

    Args:
        short_canvas_share: share of the batches whose canvas is drawn between the longest row and the context
            (docs/formulas.md, The canvas: always full, it would teach one length only).
        leading_bos: whether each row starts with a BOS that is context only.
        length_multiple: canvases are rounded up to a multiple of it (and down to the context), so that few lengths occur.
        length_pool: rows are grouped by length inside a pool of so many batches: less padding, still random.
    """

    lengths: Sequence[int] | np.ndarray
    batch_size: int
    context_length: int
    seed: int
    short_canvas_share: float = 0.5
    leading_bos: bool = True
    length_multiple: int = 1
    length_pool: int = 16

    def __post_init__(self) -> None:
        if len(self.lengths) < self.batch_size:
            raise ValueError(
                f"training.batch_size={self.batch_size} is more than the {len(self.lengths)} rows of the training data"
            )

    @property
    def batches_per_epoch(self) -> int:
        return len(self.lengths) // self.batch_size

    def plan(self, step: int) -> BatchPlan:
        """The batch of a step (0-based)."""
        epoch, index = divmod(step, self.batches_per_epoch)
        rows = self._epoch(epoch)[index]
        lengths = [int(self.lengths[row]) for row in rows]
        rng = np.random.default_rng([self.seed, 1, step])
        canvas = self.context_length
        if rng.random() < self.short_canvas_share:
            canvas = int(rng.integers(max(lengths), self.context_length + 1))
        canvas = min(-(-canvas // self.length_multiple) * self.length_multiple, self.context_length)
        return BatchPlan(step, rows, canvas, sum(lengths) - self.leading_bos * len(rows))

    def _epoch(self, epoch: int) -> list[list[int]]:
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != epoch:
            cached = (epoch, self._order(epoch))
            object.__setattr__(self, "_cached", cached)  # the dataclass is frozen, but may cache
        return cached[1]

    def _order(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, 0, epoch])
        order = rng.permutation(len(self.lengths))[: self.batches_per_epoch * self.batch_size]
        lengths = np.asarray(self.lengths)
        batches = []
        size = self.length_pool * self.batch_size
        for start in range(0, len(order), size):
            pool = order[start : start + size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += list(pool.reshape(-1, self.batch_size))
        return [batches[i].tolist() for i in rng.permutation(len(batches))]

    def from_step(self, step: int, max_steps: int) -> Iterator[BatchPlan]:
        return (self.plan(s) for s in range(step, max_steps))


class Canvas(NamedTuple):
    """Clean rows laid out on equal lengths, (B, L) each."""

    input_ids: torch.Tensor
    maskable: torch.Tensor  # bool: all but a document's leading BOS and a given prompt
    real: torch.Tensor  # bool: the document's own tokens, the padded tail not counted
    document_ids: torch.Tensor | None  # packed rows only


def draw_given(real: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """(B, L) bool: positions that are given in a share of the rows: the start of one row, any positions of another, in turns by
    chance and as many as chance has it. `real` (B, L) is False at padding."""
    chosen, by_prefix, part = torch.rand(3, len(real), 1, generator=generator)
    prefix = real.cumsum(-1) <= part * real.sum(-1, keepdim=True)
    anywhere = torch.rand(real.shape, generator=generator) < part
    return torch.where(by_prefix < 0.5, prefix, anywhere) & real & (chosen < share)


def lay_out(rows: Sequence[dict], length: int, pad_token_id: int, leading_bos: bool) -> Canvas:
    """Put rows on a canvas of `length`, the tail padded.

    Args:
        rows: dicts with `input_ids`, `document_ids` where packed, and `num_given` where a prompt is given: so many tokens, the BOS
            counted, are neither corrupted nor learnt.
    """
    input_ids = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids = torch.as_tensor(row["input_ids"])
        input_ids[i, : len(ids)] = ids
        real[i, : len(ids)] = True
    documents = None
    if "document_ids" in rows[0]:
        documents = torch.stack([torch.as_tensor(row["document_ids"]) for row in rows])
    maskable = torch.ones_like(real)
    if leading_bos:
        maskable[:, 0] = False
        if documents is not None:
            maskable[:, 1:] &= documents[:, 1:] == documents[:, :-1]
    for i, row in enumerate(rows):
        maskable[i, : row.get("num_given", 0)] = False
    return Canvas(input_ids, maskable, real, documents)


def document_positions(document_ids: torch.Tensor) -> torch.Tensor:
    """Positions (B, L) that start again at each document.

    By these alone every model of transformers, and MDLM, knows the documents of a packed row, and no attention mask has to be
    carried to the device.
    """
    index = torch.arange(document_ids.shape[1]).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.cummax(index * starts, dim=1).values


def label_positions(scored: torch.Tensor) -> torch.Tensor:
    """Indices (N,) into the B * L of every True position of `scored` (B, L), and of others up to one of 16 sizes.

    With few sizes a compiler meets few shapes; stratified times keep the number near a half, so only two or three occur.
    """
    flat = scored.flatten()
    step = max(1, flat.numel() // 16)
    wanted = min(-(-int(flat.sum()) // step) * step, flat.numel())
    return (~flat).to(torch.uint8).argsort(stable=True)[:wanted]
