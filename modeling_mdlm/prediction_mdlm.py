"""Running the model for a sampler: only the rows and positions that are asked for, a few positions of logits at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch.nn import functional
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
)

from .block_cache_mdlm import BlockCache
from .canvas_mdlm import Canvas
from .compiling_mdlm import is_compiled
from .guidance_mdlm import Guidance
from .head_loss_mdlm import is_plain
from .proposal_mdlm import Predict, Proposal

# Bytes of logits that exist at once: on a CPU what stays in its cache, else little beside the memory of a GPU.
_CHUNK_BYTES = {"cpu": 2**25}
_LARGE_CHUNK_BYTES = 2**29


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


def anneal(processors: LogitsProcessorList, start: float, end: float) -> LogitsProcessorList:
    """The processors with an annealed temperature where transformers has the constant one: before top-k and top-p."""
    kept = without_temperature(processors)
    at = next((i for i, p in enumerate(kept) if type(p).__name__.endswith("LogitsWarper")), len(kept))
    return LogitsProcessorList([*kept[:at], AnnealedTemperature(start, end), *kept[at:]])


@dataclass
class Predictor:
    """Runs the model on a canvas and processes its logits.

    Args:
        model: an `MDLMForMaskedDiffusion`.
        canvas: what it reads; forwards are counted there.
        processors: applied to the logits.
        guidance: a second canvas whose logits are combined with the first one's; None: no guidance.
        cache: keys and values of the other blocks; None: every forward runs the whole canvas.
    """

    model: Any  # MDLMForMaskedDiffusion, whose file imports this one
    canvas: Canvas
    processors: LogitsProcessorList
    guidance: Guidance | None = None
    cache: BlockCache | None = None
    _memory: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def _compiled(self) -> bool:
        return is_compiled(self.model)

    def at(self, rows: torch.Tensor, block: torch.Tensor, t: torch.Tensor) -> Predict:
        """`predict(where, reduce, times)` of a step for `rows` (R,), which are at `block` (R,) and time t (R, 1)."""
        return partial(self.run, rows, block, t)

    def run(
        self,
        rows: torch.Tensor,
        block: torch.Tensor,
        t: torch.Tensor,
        where: torch.Tensor,
        reduce: Callable[[torch.Tensor, torch.Tensor, slice], Proposal],
        times: torch.Tensor | None = None,
    ) -> list[Proposal]:
        """What `reduce(raw, processed, part)` returns for each part of the N positions of `where` (R, L); see `propose`."""
        needed = where.any(-1)
        if not bool(needed.any()):
            return []
        run, where, t = rows[needed], where[needed], t[needed]
        told = self._model_times(t[:, 0] if times is None else times[needed], block[needed], run)
        if self.cache is None:
            states = self._states(self.canvas.inputs(run), where, told)
        else:
            states = self.cache.states(run, block[needed], where, told)
        other = None
        if self.guidance is not None:
            inputs, elsewhere = self.guidance.other(self.canvas, run, where)
            other = self._states(inputs, elsewhere, told)
        self.canvas.num_forwards[run] += 1 if other is None else 2
        owner, column = where.nonzero().unbind(1)
        tokens, early = self.canvas.tokens[run], self.canvas.is_early(run[owner], column)
        results = []
        for part in self._parts(len(states)):
            raw = self._logits(states[part], 0)
            if other is not None and self.guidance is not None:
                raw = self.guidance.combine(raw, self._logits(other[part], 1))
            processed = self._process(raw, tokens, t, owner[part])
            if early is not None:
                processed = self._without_ends(processed, early[part])
            results.append(reduce(raw, processed, part))
        return results

    def _states(
        self, inputs: dict[str, torch.Tensor], where: torch.Tensor, times: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Hidden states (N, hidden_size) at the True positions of `where` (R, L)."""
        if not self._compiled:
            return self.model.model(**inputs, **times, positions=where).last_hidden_state
        # A compiler meets few shapes: open rows up to a multiple of an eighth of all, the last one repeated. The last layer, at
        # the positions alone, is not compiled.
        step = max(1, len(self.canvas.tokens) // 8)
        rows = -(-len(where) // step) * step
        pick = torch.arange(rows, device=where.device).clamp(max=len(where) - 1)
        inputs = {name: value[pick] for name, value in (inputs | times).items()}
        where = functional.pad(where, (0, 0, 0, rows - len(where)))
        return self.model.model(**inputs, positions=where).last_hidden_state

    def _logits(self, states: torch.Tensor, number: int) -> torch.Tensor:
        """(n, V), float32 or finer, of canvas 0 or 1; written over by the next call for it."""
        head, out = self.model.get_output_embeddings(), None
        if is_plain(head, states) and head.weight.dtype == states.dtype and not _autocasts(states):
            if number not in self._memory:
                self._memory[number] = states.new_empty(self._chunk, head.out_features)
            out = self._memory[number][: len(states)]
        logits = self.model.subs_logits(states) if out is None else self.model.subs_logits(states, out)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _process(self, raw: torch.Tensor, tokens: torch.Tensor, t: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Processors expect one sequence a row of logits: each position comes with its row's canvas."""
        if not self.processors:
            return raw
        for processor in self.processors:
            if isinstance(processor, AnnealedTemperature):
                processor.times = t[owner]
        return self.processors(tokens[owner], raw.clone())  # type: ignore[arg-type]  # typed as LongTensor

    def _without_ends(self, processed: torch.Tensor, early: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) that cannot end the text where `early` (n,) is True."""
        ends = torch.zeros(processed.shape[-1], dtype=torch.bool, device=processed.device)
        ends[self.canvas.ending_ids()] = True
        return processed.masked_fill(early[:, None] & ends, -torch.inf)

    def _model_times(self, times: torch.Tensor, block: torch.Tensor, run: torch.Tensor) -> dict[str, torch.Tensor]:
        """`timesteps` (R,) for a time-conditioned model; with blocks, the times at which a whole canvas has as many masks."""
        if self.model.config.time_conditioning == "none":
            return {}
        blocks = self.canvas.num_blocks[run]
        schedule = self.canvas.schedule
        rate = (blocks - 1 - block + schedule.mask_rate(times)) / blocks
        return {"timesteps": torch.where(blocks == 1, times, schedule.time_at(rate)).float()}

    @cached_property
    def _chunk(self) -> int:
        """Positions whose logits exist at once."""
        budget = _CHUNK_BYTES.get(self.canvas.tokens.device.type, _LARGE_CHUNK_BYTES)
        return max(1, budget // (4 * self.model.config.vocab_size))

    def _parts(self, total: int) -> list[slice]:
        return [slice(start, min(start + self._chunk, total)) for start in range(0, total, self._chunk)]


def _autocasts(states: torch.Tensor) -> bool:
    return torch.is_autocast_enabled(states.device.type)
