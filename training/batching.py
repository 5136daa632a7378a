"""Which rows make up step s, on how long a canvas: a pure function of (seed, step), so that resuming is exact, the
number of processes changes nothing, and both arms see the same rows in the same order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

_POOL_BATCHES = 16  # rows are grouped by length inside a pool of this many batches: less padding, still random


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
            (FORMULAS: a canvas always brim-full would teach one length only).
        leading_bos: whether each row starts with a BOS that is context only.
    """

    lengths: Sequence[int]
    batch_size: int
    context_length: int
    seed: int
    short_canvas_share: float = 0.5
    leading_bos: bool = True

    def __post_init__(self):
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
        return BatchPlan(step, rows, canvas, sum(lengths) - self.leading_bos * len(rows))

    def _epoch(self, epoch: int) -> list[list[int]]:
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != epoch:
            cached = (epoch, self._order(epoch))
            object.__setattr__(self, "_cached", cached)  # frozen: a cache is no state
        return cached[1]

    def _order(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, 0, epoch])
        order = rng.permutation(len(self.lengths))[: self.batches_per_epoch * self.batch_size]
        lengths = np.asarray(self.lengths)
        batches = []
        for start in range(0, len(order), _POOL_BATCHES * self.batch_size):
            pool = order[start : start + _POOL_BATCHES * self.batch_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += list(pool.reshape(-1, self.batch_size))
        return [batches[i].tolist() for i in rng.permutation(len(batches))]

    def from_step(self, step: int, max_steps: int) -> Iterator[BatchPlan]:
        return (self.plan(s) for s in range(step, max_steps))


class Canvas(NamedTuple):
    """Clean rows laid out on equal lengths, (B, L) each."""

    input_ids: torch.Tensor
    maskable: torch.Tensor  # bool: all but a document's leading BOS
    real: torch.Tensor  # bool: the document's own tokens, the padded tail not counted
    document_ids: torch.Tensor | None  # packed rows only


def lay_out(rows: Sequence[dict], length: int, pad_token_id: int, leading_bos: bool) -> Canvas:
    """Put rows (dicts with `input_ids`, and `document_ids` where packed) on a canvas of `length`, the tail padded."""
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
    return Canvas(input_ids, maskable, real, documents)


def document_attention(document_ids: torch.Tensor, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Additive attention mask (B, 1, L, L) inside documents, and positions (B, L) that restart at each."""
    same = document_ids[:, :, None] == document_ids[:, None, :]
    if causal:
        same = same & torch.ones_like(same[0]).tril()
    mask = torch.zeros(same.shape).masked_fill(~same, torch.finfo(torch.float32).min)[:, None]
    index = torch.arange(document_ids.shape[1]).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return mask, index - torch.cummax(index * starts, dim=1).values
