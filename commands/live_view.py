"""Watching text appear on a terminal: one row by transformers' streamers, several rows by rich."""

import sys
import time
from typing import Any

import torch
from transformers import TextDiffusionStreamer, TextStreamer

from arche_mdlm.configuration.extras import install_command
from arche_mdlm.writing.drafts import MASK, draft_text, runs

END = "∎"


def require_rich() -> None:
    """ValueError, with the way out, where rich is not installed."""
    try:
        import rich  # noqa: F401
    except ImportError:
        raise ValueError(
            f"watching several texts needs the package rich: {install_command('live')} (or give --num_samples 1)"
        ) from None


def make_streamer(tokenizer: Any, rows: int, diffusion: bool, skip_prompt: bool = False) -> Any:
    """The `streamer` of `generate` for so many rows; without drafts if standard output is not a terminal."""
    if rows > 1:
        return LiveCanvases(tokenizer)
    if diffusion and sys.stdout.isatty():
        return DraftStreamer(tokenizer, skip_prompt, skip_special_tokens=True)
    return TextStreamer(tokenizer, skip_prompt, skip_special_tokens=True)


class DraftStreamer(TextDiffusionStreamer):
    """`TextDiffusionStreamer` that shows a mask as a grey block, not as `[MASK]`, and no special token else."""

    def put_draft(self, value: torch.Tensor, **kwargs: Any) -> None:
        self._clear_draft()
        # TextStreamer holds the last word back until it is sure that the word is over.
        held: Any = (
            self.tokenizer.decode(self.token_cache, **self.decode_kwargs)[self.print_len :] if self.token_cache else ""
        )
        text = held + draft_text(self.tokenizer, value.reshape(-1).tolist())
        print(f"\0337\033[33m{text}\033[0m", end="", flush=True)
        self._has_draft = True


class LiveCanvases:
    """A streamer for `generate` that shows all rows of a canvas: masks as blocks, new tokens highlighted; of uniform noise, which has no
    masks, how many tokens have changed.

    If the console is not a terminal, only the finished texts are printed.

    Args:
        tokenizer: decodes the rows; its `mask_token_id` says what is a mask.
        console: a `rich.console.Console`; standard output by default.
        fps: pictures a second; steps that come faster are not all shown.
    """

    def __init__(self, tokenizer: Any, console: Any = None, fps: float = 10.0):
        require_rich()
        from rich.console import Console

        self.tokenizer, self.console, self.interval = tokenizer, console or Console(), 1 / fps
        self.calls, self.drawn_at = 0, float("-inf")
        self.last: Any = None
        self.drawn: Any = None  # the canvas on the screen
        self.first_masks: Any = None  # (B,) masks at the start
        self.live: Any = None

    def put(self, value: torch.Tensor) -> None:
        """Finished text of one row, which is on the canvas anyway."""

    def put_canvas(self, tokens: torch.Tensor) -> None:
        """Take the canvas (B, L): at the start, after each step, and the final sequences."""
        masks = (tokens == self.tokenizer.mask_token_id).sum(-1)
        if self.first_masks is None:
            self.first_masks = masks
        self.calls += 1
        self.last = tokens.clone()
        if self.console.is_terminal and time.monotonic() - self.drawn_at >= self.interval:
            self._draw()

    def end(self) -> None:
        """Take the live view away and print the texts."""
        if self.live is not None:
            self.live.stop()
        if self.last is not None:
            self.console.print(self.render(final=True))

    def render(self, final: bool = False) -> Any:
        """The rows as one rich renderable."""
        from rich.console import Group
        from rich.text import Text

        if final:
            lines = [Text(self.tokenizer.decode(row, skip_special_tokens=True).strip()) for row in self.last.tolist()]
            return Group(*(part for line in lines for part in (line, Text(""))))
        before = self.last if self.drawn is None else self.drawn
        rows = zip(self.last.tolist(), before.tolist(), self.first_masks.tolist(), strict=True)
        # The first canvas comes before any step.
        parts = [Text(f"step {self.calls - 1}", style="bold")]
        for number, (row, old, masks) in enumerate(rows, start=1):
            parts += [Text(f"text {number}: {self._progress(row, old, masks)}", style="dim cyan")]
            parts += [self._line(row, old)]
        return Group(*parts)

    def _progress(self, row: list[int], old: list[int], masks: int) -> str:
        """Of a row that had so many masks at the start."""
        left = row.count(self.tokenizer.mask_token_id)
        if masks:
            return f"{masks - left} of {masks} filled, {1 - left / masks:.0%}"
        changed = sum(token != previous for token, previous in zip(row, old, strict=True))
        return f"{changed} of {len(row)} tokens changed"

    def _line(self, row: list[int], old: list[int]) -> Any:
        from rich.text import Text

        tokenizer = self.tokenizer
        keys = []
        for token, previous in zip(row, old, strict=True):
            if token == tokenizer.mask_token_id:
                keys.append("bright_black")
            elif token == tokenizer.eos_token_id:
                keys.append("dim red")
            else:
                keys.append("bold green" if previous != token else "")
        line = Text()
        for style, part in runs(row, keys):
            if style == "bright_black":
                line.append(MASK * len(part), style)
            elif style == "dim red":
                line.append(END * len(part), style)
            else:
                line.append(tokenizer.decode(part, skip_special_tokens=True), style)
        return line

    def _draw(self) -> None:
        from rich.live import Live

        if self.live is None:
            # Transient: a picture that does not fit the terminal is cut, so the whole texts are printed at the end.
            self.live = Live(console=self.console, transient=True, auto_refresh=False, vertical_overflow="ellipsis")
            self.live.start()
        self.live.update(self.render(), refresh=True)
        self.drawn, self.drawn_at = self.last, time.monotonic()
