"""Feeding transformers' streamers from a canvas that is not filled left to right."""

import torch


class CanvasStream:
    """Shows a one-row canvas: finished text to any streamer, drafts to one that takes them (`put_draft`)."""

    def __init__(self, streamer, canvas):
        self.streamer = streamer
        self.sent = self._finished(canvas)
        streamer.put(canvas.tokens[:, : self.sent].cpu())

    def __call__(self, canvas) -> None:
        if hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(canvas.tokens[0, self.sent :].cpu())
            return
        finished = self._finished(canvas)
        eos = canvas.is_eos()[0, :finished]
        if eos.any():  # behind the first EOS there is no text
            finished = min(finished, int(eos.nonzero()[0]) + 1)
        if finished > self.sent:
            self.streamer.put(canvas.tokens[0, self.sent : finished].cpu())
            self.sent = finished

    def end(self, sequences: torch.Tensor) -> None:
        if self.sent < sequences.shape[1]:
            self.streamer.put(sequences[0, self.sent :].cpu())
        self.streamer.end()

    @staticmethod
    def _finished(canvas) -> int:
        """Length of the prefix without a mask."""
        open_positions = canvas.masked[0].nonzero()
        return int(open_positions[0]) if len(open_positions) else canvas.tokens.shape[1]
