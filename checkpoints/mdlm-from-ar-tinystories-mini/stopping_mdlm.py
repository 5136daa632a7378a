"""Stopping before the canvas is full: a time limit, stop strings, and the caller's own criteria."""

import time
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from transformers.generation import stopping_criteria as stock

from .canvas_mdlm import Canvas

_WINDOWS = 1 << 20  # tokens that stop strings are looked for in at once


class Stopping:
    """The criteria of one generation.

    Args:
        given: what the caller gave as `stopping_criteria`: None, a criterion, or a list. A criterion of transformers' own works
            where it has a meaning on a canvas; any other is called with the canvases (R, L) of the rows being written after
            each step, and gives (R,) bool or one bool: a row that stops is left as it is. One with a true attribute
            `takes_rows` is also told which rows of the batch these are, as `rows=` (R,).
        max_time: seconds, or None.
        stop_strings: a string, a list of strings, or None.
        tokenizer: what the model writes with; needed for stop strings.

    Raises:
        ValueError: for a criterion of transformers that counts or looks at the last token (a canvas lacks one), and
            for stop strings without a tokenizer.
    """

    def __init__(
        self,
        given: Any,
        max_time: float | None = None,
        stop_strings: str | list[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        given = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
        for one in given:
            if isinstance(one, (stock.MaxLengthCriteria, stock.EosTokenCriteria, stock.ConfidenceCriteria)):
                raise ValueError(
                    f"stopping_criteria holds a {type(one).__name__}, which looks at the end of a text written left to right: "
                    "give max_new_tokens, max_length or eos_token_id instead"
                )
        self.strings = [one for one in given if isinstance(one, stock.StopStringCriteria)]
        if stop_strings:
            if tokenizer is None:
                raise ValueError(
                    f"stop_strings={stop_strings!r} needs the argument tokenizer, the tokenizer of the model"
                )
            self.strings.append(stock.StopStringCriteria(tokenizer, stop_strings))
        limits = [one for one in given if isinstance(one, stock.MaxTimeCriteria)]
        if max_time is not None:
            limits.append(stock.MaxTimeCriteria(max_time))
        self.deadline = min((one.initial_timestamp + one.max_time for one in limits), default=None)
        self.others = [one for one in given if one not in self.strings and one not in limits]

    def is_late(self) -> bool:
        """Whether the time limit is over."""
        return self.deadline is not None and time.time() >= self.deadline

    def after_step(self, canvas: Canvas, rows: torch.Tensor) -> None:
        """Stop those of `rows` (R,) of a canvas that a criterion stops; mark the ends."""
        for criterion in self.others:
            more = {"rows": rows} if getattr(criterion, "takes_rows", False) else {}
            stops = torch.as_tensor(criterion(canvas.tokens[rows], None, **more)).to(rows.device)
            canvas.stop(rows[stops.bool().expand(len(rows))])
        self.mark_ends(canvas, rows)

    def mark_ends(self, canvas: Canvas, rows: torch.Tensor | slice = slice(None)) -> None:
        """Mark on a canvas where a stop string ends."""
        if self.strings:
            canvas.text_ends[rows] = self._ends(canvas.tokens[rows], canvas.mask_token_id)

    def _ends(self, tokens: torch.Tensor, filler: int) -> torch.Tensor:
        """(R, L) bool: whether a stop string ends within the token there, for tokens (R, L)."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        for criterion in self.strings:
            width = criterion.maximum_token_len
            windows = functional.pad(tokens, (width - 1, 0), value=filler).unfold(1, width, 1)  # (R, L, width)
            size = max(1, _WINDOWS // windows[:1].numel())
            parts = [criterion(part.flatten(0, 1), None) for part in windows.split(size)]
            found |= torch.cat(parts).view_as(found)
        return found
