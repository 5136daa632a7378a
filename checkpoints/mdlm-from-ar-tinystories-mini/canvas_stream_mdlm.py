"""Text on its way to a streamer of transformers."""

from typing import Any

import torch

from .canvas_mdlm import Canvas


class CanvasStream:
    """Feeds transformers' streamers from a canvas, which is filled in any order: all rows to a streamer with `put_canvas`; of one
    row, drafts to one with `put_draft`, and finished text to any other.

    Raises ValueError for several rows and a streamer that cannot show them.

    Args:
        settles: whether what is filled stays; if not, text is finished at the end only.
    """

    def __init__(self, streamer: Any, canvas: Canvas, settles: bool = True) -> None:
        self.streamer, self.settles = streamer, settles
        self.shows_all = hasattr(streamer, "put_canvas")
        if self.shows_all:
            streamer.put_canvas(self._whole(canvas))
            return
        if len(canvas.tokens) > 1:
            raise ValueError(f"this streamer shows one row, but there are {len(canvas.tokens)}")
        self.sent = self._finished(canvas)
        streamer.put(canvas.tokens[:, : self.sent].cpu())

    def __call__(self, canvas: Canvas) -> None:
        if self.shows_all:
            self.streamer.put_canvas(self._whole(canvas))
            return
        if hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(canvas.tokens[0, self.sent :].cpu())
            return
        if not self.settles:
            return
        finished = self._finished(canvas)
        eos = canvas.is_end()[0, :finished]
        if eos.any():  # the text ends at the first end token
            finished = min(finished, int(eos.nonzero()[0]) + 1)
        if finished > self.sent:
            self.streamer.put(canvas.tokens[0, self.sent : finished].cpu())
            self.sent = finished

    def end(self, sequences: torch.Tensor) -> None:
        """Send the rest of the finished `sequences` (B, L), and end the stream."""
        if self.shows_all:
            self.streamer.put_canvas(sequences.cpu())
        elif self.sent < sequences.shape[1]:
            self.streamer.put(sequences[0, self.sent :].cpu())
        self.streamer.end()

    @staticmethod
    def _whole(canvas: Canvas) -> torch.Tensor:
        """(B, L) on the CPU, padding as pads: the canvas has masks there."""
        return canvas.tokens.masked_fill(~canvas.attended, canvas.pad_token_id).cpu()

    @staticmethod
    def _finished(canvas: Canvas) -> int:
        """Length of the prefix without a mask."""
        open_positions = canvas.masked[0].nonzero()
        return int(open_positions[0]) if len(open_positions) else canvas.tokens.shape[1]
