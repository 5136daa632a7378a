"""Logits processors of transformers on a canvas, and a temperature that changes on the way."""

import torch
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
)


class AnnealedTemperature(LogitsProcessor):
    """Divides logits by a temperature that goes from `start` at t = 1 to `end` at t = 0, linearly."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self.times: torch.Tensor | None = None  # (n, 1), set before each call

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert self.times is not None, "times are set before each call"
        temperature = self.end + (self.start - self.end) * self.times
        return scores / temperature.to(scores.dtype)


def on_canvas(processors: LogitsProcessorList) -> LogitsProcessorList:
    """Logits processors of transformers, changed where they expect a text written left to right.

    Minimum lengths are left out: they count tokens of the canvas, which is full from the start (`Predictor` has its own). The
    repetition penalty is made anew without the padding of each row, as it is called with a position a row; padding holds masks
    here, which the penalty does not change.
    """
    kept = [p for p in processors if not isinstance(p, (MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor))]
    padded = [isinstance(p, RepetitionPenaltyLogitsProcessor) and torch.is_tensor(p.prompt_ignore_length) for p in kept]
    return LogitsProcessorList(
        RepetitionPenaltyLogitsProcessor(p.penalty) if swap else p for p, swap in zip(kept, padded, strict=True)
    )


def without_temperature(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The processors without transformers' constant temperature."""
    return LogitsProcessorList(p for p in processors if not isinstance(p, TemperatureLogitsWarper))


def without_warpers(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The processors without those that sharpen or cut a law: temperature, top-k, top-p and their like."""
    kept = [p for p in without_temperature(processors) if not isinstance(p, AnnealedTemperature)]
    return LogitsProcessorList(p for p in kept if not _is_warper(p))


def _is_warper(processor: LogitsProcessor) -> bool:
    return type(processor).__name__.endswith("LogitsWarper")


def anneal(processors: LogitsProcessorList, start: float, end: float) -> LogitsProcessorList:
    """The processors with an annealed temperature where transformers has the constant one: before top-k and top-p."""
    kept = without_temperature(processors)
    at = next((i for i, p in enumerate(kept) if _is_warper(p)), len(kept))
    return LogitsProcessorList([*kept[:at], AnnealedTemperature(start, end), *kept[at:]])
