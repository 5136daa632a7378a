"""Writing a batch of rows with `generate`, and telling each row how far it is."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from arche_mdlm.serving.row import Draft, Row
from arche_mdlm.serving.row_draw import RowDraw
from arche_mdlm.serving.settings import sampler_of
from arche_mdlm.writing.drafts import draft_text


class NothingLeft(Exception):
    """Raised out of `generate` where all rows of its batch are over."""


class Writer(ABC):
    """Writes batches with one model."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows, which have the same options, to their ends."""

    def _inputs(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Prompts (B, W), padded on the left."""
        width = max(len(row.prompt) for row in rows)
        pad = self.tokenizer.pad_token_id
        pad = rows[0].eos_token_ids[0] if pad is None else pad
        input_ids = torch.tensor([[pad] * (width - len(row.prompt)) + row.prompt for row in rows])
        mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        return {"input_ids": input_ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}


class DiffusionWriter(Writer):
    """Denoises a canvas of all rows; each row has its own random stream."""

    def write(self, rows: Sequence[Row]) -> None:
        """As in `Writer`."""
        options = json.loads(rows[0].options)
        inputs = self._inputs(rows)
        masked_noise = getattr(self.model.config, "diffusion", "masked") not in ("uniform", "uniform_block")
        settles = masked_noise and not sampler_of(self.model, options).remasks
        watcher = _Watcher(self.tokenizer, rows, inputs["input_ids"].shape[1], settles)
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        try:
            self.model.generate(
                **inputs, **options, generator=generators, streamer=watcher, stopping_criteria=_Over(rows)
            )
        except NothingLeft:
            return


class _Watcher:
    """The streamer of `generate`: hands each row what is finished of it, and drafts.

    Args:
        width: of the padded prompts.
        settles: whether a position that holds no mask stays as it is; else texts come at the end.
    """

    def __init__(self, tokenizer: Any, rows: Sequence[Row], width: int, settles: bool) -> None:
        self.tokenizer, self.rows, self.width, self.settles = tokenizer, rows, width, settles
        self.step = -1
        self.last: list[list[int]] = []

    def put(self, value: torch.Tensor) -> None:
        """Of one row; it is on the canvas anyway."""

    def put_canvas(self, tokens: torch.Tensor) -> None:
        """Take the canvas (B, L): at the start, after each step, and the final texts; NothingLeft where all rows are over."""
        self.step += 1
        self.last = tokens.tolist()
        for row, ids in zip(self.rows, self.last, strict=True):
            if row.is_over:
                continue
            ids = self._own(row, ids)
            if row.wants_drafts:
                row.show(self._draft(row, ids))
            if self.settles:
                mask = self.tokenizer.mask_token_id
                row.advance(ids[: ids.index(mask)] if mask in ids else ids)
        if all(row.is_over for row in self.rows):
            raise NothingLeft

    def end(self) -> None:
        """Finish all rows; `generate` has handed the final texts to `put_canvas`."""
        for row, ids in zip(self.rows, self.last, strict=True):
            row.advance(self._own(row, ids), whole=True)

    def _own(self, row: Row, ids: list[int]) -> list[int]:
        """A row's prompt and text, without padding."""
        first = self.width - len(row.prompt)
        return ids[first : first + row.length]

    def _draft(self, row: Row, ids: list[int]) -> Draft:
        ends = [i for i in range(len(row.prompt), len(ids)) if ids[i] in row.eos_token_ids]
        shown = ids[0 if row.gaps else len(row.prompt) : ends[0] if ends else len(ids)]
        masked = shown.count(self.tokenizer.mask_token_id)
        return Draft(row.head + draft_text(self.tokenizer, shown), masked, self.step)


class _Over:
    """A stopping criterion of our own `generate`: rows that are over are left as they are."""

    takes_rows = True

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, tokens: torch.Tensor, scores: Any, rows: torch.Tensor) -> torch.Tensor:
        """(R,) bool for the `rows` (R,) of the batch."""
        return torch.tensor([self.rows[number].is_over for number in rows.tolist()])


class AutoregressiveWriter(Writer):
    """Writes from left to right; each row has its own random stream (`RowDraw`)."""

    def write(self, rows: Sequence[Row]) -> None:
        """As in `Writer`."""
        options = json.loads(rows[0].options)
        inputs = self._inputs(rows)
        width = inputs["input_ids"].shape[1]
        processors = []
        defaults = self.model.generation_config
        if options.pop("do_sample"):
            seeds = torch.tensor([row.seed for row in rows]).to(self.model.device)
            names = ("temperature", "top_k", "top_p", "min_p")
            chosen = {name: options.pop(name, getattr(defaults, name, None)) for name in names}
            processors = [RowDraw(seeds, width, **chosen)]
        longest = max(row.max_new_tokens for row in rows)
        self.model.generate(
            **inputs, **options, do_sample=False, temperature=None, top_k=None, top_p=None, min_p=None,
            logits_processor=processors, stopping_criteria=[_Followed(rows, width)], max_new_tokens=None,
            max_length=width + longest, streamer=None,
        )  # fmt: skip


class _Followed(StoppingCriteria):
    """A stopping criterion that tells each row its tokens, and stops those that are over."""

    def __init__(self, rows: Sequence[Row], width: int) -> None:
        self.rows, self.width = rows, width
        self.ids = [list(row.prompt) for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """(B,) bool for the texts (B, L) so far."""
        for row, ids, token in zip(self.rows, self.ids, input_ids[:, -1].tolist(), strict=True):
            if not row.is_over:
                ids.append(token)
                row.advance(ids)
        return torch.tensor([row.is_over for row in self.rows], device=input_ids.device)
