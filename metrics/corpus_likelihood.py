"""Likelihood of a corpus of stories: batches of them, shared out among processes, and the figures a token and a byte."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from arche_mdlm.metrics.ar_likelihood import head_is_all, nll
from arche_mdlm.metrics.batch_sizes import AUTO, BatchSize
from arche_mdlm.metrics.likelihood import gives_token_nll, nelbo_of_seeds
from arche_mdlm.metrics.rows import evaluating, first_positions


class CorpusLikelihood(NamedTuple):
    """Of a corpus. Tokens are those after BOS, or after what is given, EOS counted, the padded tail not (its nats are counted)."""

    nats_per_token: float
    standard_error: float  # of nats_per_token; Monte Carlo error only, 0 for an exact likelihood
    nats_per_story: float
    bits_per_byte: float | None  # None without byte counts
    num_tokens: int
    num_stories: int
    nats: list[float]  # a story

    @property
    def nats_per_story_standard_error(self) -> float:
        """Of nats_per_story."""
        return self.standard_error * self.num_tokens / self.num_stories

    @property
    def bits_per_byte_standard_error(self) -> float | None:
        """Of bits_per_byte; None without byte counts."""
        if self.bits_per_byte is None:
            return None
        return self.standard_error * self.bits_per_byte / self.nats_per_token

    @property
    def perplexity(self) -> float:
        """exp of nats_per_token; an upper bound on it for a NELBO."""
        return math.exp(self.nats_per_token)


def corpus_nelbo(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    *,
    canvas_length: int,
    pad_token_id: int,
    num_bytes: Sequence[int] | None = None,
    num_given: Sequence[int] | None = None,
    num_samples: int = 4,
    antithetic: str = "counts",
    generator: torch.Generator | None = None,
    batch_size: int | str | BatchSize = AUTO,
    progress: bool = False,
    processes: Any = None,
) -> CorpusLikelihood:
    """NELBO of stories (BOS ... EOS token ids), each on a canvas whose padded tail is attended and scored.

    The tail's nats are counted and only real tokens divide them: otherwise the canvas would tell the model how long
    the story is, and the bound would be on log p(x | length). `num_given` says of each story how many of its first tokens, the BOS
    counted, are given: the likelihood is that of the rest, whose bytes `num_bytes` are. With `processes`, an `Accelerator` or `PartialState`,
    each scores its share of the batches and all return the figures that one process would; each has to be given the
    same rows and a generator of the same state. ValueError for no rows, a number of byte counts or given tokens that does not fit, or
    a story longer than the canvas.
    """
    _check_rows(rows, num_bytes, num_given)
    _check_fit(rows, canvas_length)
    sizes = BatchSize.of(batch_size, model, canvas_length, all_logits=not gives_token_nll(model))
    step = _agreed(max(1, sizes.size // num_samples), processes)
    starts = range(0, len(rows), step)
    # Drawn by every process for all batches: what a row draws does not depend on who scores it.
    seeds = [torch.randint(0, 2**62, (len(rows[start : start + step]),), generator=generator) for start in starts]
    scores = torch.zeros(2, len(rows), dtype=torch.float64)  # nats, standard errors
    for index, counts in _share(len(starts), processes, "NELBO", progress):
        part = slice(starts[index], starts[index] + step)
        canvases = _canvases(rows[part], canvas_length, pad_token_id).to(model.device)
        given = None if num_given is None else first_positions(num_given[part], canvas_length)
        result = nelbo_of_seeds(model, canvases, None, seeds[index].tolist(), num_samples, antithetic, sizes, given)
        if counts:
            scores[:, part] = torch.stack([result.nats, result.standard_error])
    nats, errors = _together(scores, processes)
    return _summary(rows, nats, errors, num_bytes, num_given)


def corpus_nll(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    num_bytes: Sequence[int] | None = None,
    num_given: Sequence[int] | None = None,
    batch_size: int | str | BatchSize = AUTO,
    progress: bool = False,
    processes: Any = None,
) -> CorpusLikelihood:
    """Exact NLL of stories (BOS ... EOS token ids); nothing behind EOS is scored. `num_given`, `processes` and ValueError as
    `corpus_nelbo`."""
    _check_rows(rows, num_bytes, num_given)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # equal lengths together: little padding
    ids, mask = (part.to(model.device) for part in padded([rows[order[-1]]], pad_token_id))
    with evaluating(model):
        in_chunks = head_is_all(model, ids, mask, mask.cumsum(-1) - 1)
    sizes = BatchSize.of(batch_size, model, ids.shape[1], all_logits=not in_chunks)
    step = _agreed(sizes.size, processes)
    nats = torch.zeros(len(rows), dtype=torch.float64)
    for batch, counts in _share(-(-len(rows) // step), processes, "NLL", progress):
        chosen = order[batch * step : (batch + 1) * step]
        ids, mask = padded([rows[index] for index in chosen], pad_token_id)
        given = None if num_given is None else first_positions([num_given[index] for index in chosen], ids.shape[1])
        result = nll(model, ids.to(model.device), mask.to(model.device), condition_mask=given, batch_size=sizes)
        if counts:
            nats[chosen] = result
    nats = _together(nats, processes)
    return _summary(rows, nats, torch.zeros_like(nats), num_bytes, num_given)


def _share(num_batches: int, processes: Any, name: str, progress: bool) -> Iterator[tuple[int, bool]]:
    """This process's batches, each with whether its scores count, behind a progress bar.

    Equally many in each process, since a forward of sharded weights needs all of them: who has none left scores the
    last one once more, for nothing.
    """
    index, count = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    for first in tqdm(range(0, num_batches, count), desc=name, disable=not progress):
        yield min(first + index, num_batches - 1), first + index < num_batches


def _agreed(step: int, processes: Any) -> int:
    """The least of the processes' steps: their memories may differ, their batches may not."""
    if processes is None or processes.num_processes == 1:
        return step
    least = torch.tensor(step, device=processes.device)
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
    return int(least)


def _together(values: torch.Tensor, processes: Any) -> torch.Tensor:
    """All processes' values, which are zero wherever another one has scored."""
    if processes is None or processes.num_processes == 1:
        return values
    values = values.to(processes.device)
    torch.distributed.all_reduce(values)
    return values.cpu()


def _check_rows(
    rows: Sequence[Sequence[int]], num_bytes: Sequence[int] | None, num_given: Sequence[int] | None = None
) -> None:
    if len(rows) == 0:
        raise ValueError("rows is empty; at least one story is needed")
    if num_bytes is not None and len(num_bytes) != len(rows):
        raise ValueError(f"num_bytes has {len(num_bytes)} entries for {len(rows)} rows; each story needs one")
    if num_given is not None and len(num_given) != len(rows):
        raise ValueError(f"num_given has {len(num_given)} entries for {len(rows)} rows; each story needs one")


def _check_fit(rows: Sequence[Sequence[int]], canvas_length: int) -> None:
    longest = max(len(row) for row in rows)
    if longest > canvas_length:
        raise ValueError(f"canvas_length={canvas_length} is shorter than the longest story, {longest} tokens")


def padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask (N, longest), padded on the right."""
    ids = torch.full((len(rows), max(len(row) for row in rows)), pad_token_id)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = _copied(row)
        mask[line, : len(row)] = 1
    return ids, mask


def _canvases(rows: Sequence[Sequence[int]], canvas_length: int, pad_token_id: int) -> torch.Tensor:
    """(N, canvas_length): the stories, padded on the right; ValueError if one does not fit."""
    _check_fit(rows, canvas_length)
    canvases = torch.full((len(rows), canvas_length), pad_token_id)
    for index, row in enumerate(rows):
        canvases[index, : len(row)] = _copied(row)
    return canvases


def _copied(row: Sequence[int]) -> torch.Tensor:
    """The ids as a tensor of their own: rows of a memory-mapped data set cannot be written, of which PyTorch would warn."""
    return torch.from_numpy(np.array(row))


def _summary(
    rows: Sequence[Sequence[int]],
    nats: torch.Tensor,
    errors: torch.Tensor,
    num_bytes: Sequence[int] | None,
    num_given: Sequence[int] | None = None,
) -> CorpusLikelihood:
    context = [1] * len(rows) if num_given is None else [max(1, count) for count in num_given]
    num_tokens = sum(len(row) - count for row, count in zip(rows, context, strict=True))
    total = nats.sum().item()
    return CorpusLikelihood(
        nats_per_token=total / num_tokens,
        standard_error=errors.square().sum().sqrt().item() / num_tokens,
        nats_per_story=total / len(rows),
        bits_per_byte=None if num_bytes is None else total / math.log(2) / sum(num_bytes),
        num_tokens=num_tokens,
        num_stories=len(rows),
        nats=nats.tolist(),
    )
