"""Running the model for a sampler: samplers -> `Prediction` -> model.

Only the rows and positions that are asked for are run, and the logits of a few positions exist at a time.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional
from transformers.generation import LogitsProcessorList

from .block_cache_mdlm import BlockCache
from .canvas_mdlm import Canvas, Draft, Proposal, model_inputs
from .compiling_mdlm import is_compiled
from .head_loss_mdlm import is_plain
from .noise_mdlm import block_sums, inverse_cdf, two_largest
from .precision_mdlm import finest, refined
from .processors_mdlm import AnnealedTemperature
from .sight_mdlm import real_positions

# Bytes of logits that exist at once: on a CPU what stays in its cache, else little beside the memory of a GPU.
_CHUNK_BYTES = {"cpu": 2**25}
_LARGE_CHUNK_BYTES = 2**29


@dataclass(frozen=True)
class Guidance:
    """log p = log p_without + scale (log p_with - log p_without), not normalised.

    Source: Ho and Salimans 2022, arXiv 2207.12598; for masked diffusion, with the prompt masked as the unconditional
    canvas: Nie et al. 2025, arXiv 2410.18514 and 2502.09992.

    Args:
        scale: 1 turns guidance off, more pushes away from the other canvas, 0 uses that canvas alone.
        prompt, attended: (B, Pn) negative prompts in place of the rows' own prompts of `width` tokens, and where they are
            no padding; None: the row's own canvas with everything that was given, BOS aside, masked.
    """

    scale: float
    prompt: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    width: int = 0

    @classmethod
    def build(
        cls,
        scale: float | None,
        prompt: torch.Tensor | None,
        prompt_mask: torch.Tensor | None,
        canvas: Canvas,
        context: int,
    ) -> "Guidance | None":
        """None for a scale of None or 1; ValueError for a negative scale, or a prompt that does not fit its use."""
        if scale is None or scale == 1:
            if prompt is not None:
                raise ValueError(f"negative_prompt_ids need guidance_scale above 1, but it is {scale}")
            return None
        if not canvas.corruption.has_order:
            raise ValueError(
                f"guidance_scale={scale!r} is for masked noise, where a prompt is hidden by masks; this model has "
                f"{canvas.corruption.name} noise: leave it out"
            )
        if not scale >= 0:
            raise ValueError(f"guidance_scale={scale!r} must be at least 0; 1 turns guidance off, more is stronger")
        if prompt is None:
            return cls(scale)
        rows, width = canvas.given.shape
        if rows % len(prompt):
            raise ValueError(
                f"negative_prompt_ids has {len(prompt)} rows, which does not divide the {rows} of input_ids"
            )
        if bool(canvas.fillable[:, :width].any()):
            raise ValueError("negative_prompt_ids cannot be used with a prompt that contains masks; leave them out")
        attended = torch.ones_like(prompt) if prompt_mask is None else prompt_mask
        new = canvas.tokens.shape[1] - width
        if int(attended.sum(-1).max()) + new > context:
            raise ValueError(
                f"negative_prompt_ids of {int(attended.sum(-1).max())} tokens and {new} new ones do not fit the context of "
                f"{context}"
            )
        prompt = prompt.to(canvas.tokens.device).masked_fill(attended == 0, canvas.mask_token_id)
        times = rows // len(prompt)
        attended = attended.bool().to(prompt.device)
        return cls(scale, prompt.repeat_interleave(times, 0), attended.repeat_interleave(times, 0), width)

    def other(
        self, canvas: Canvas, rows: torch.Tensor, where: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The other canvas of `rows` (R,) as inputs of the model, and where (R, L') the same positions are in it."""
        tokens, attended = canvas.tokens[rows], canvas.attended[rows]
        if self.prompt is None or self.attended is None:
            given = attended & ~canvas.fillable[rows]
            if canvas.bos_token_id is not None:  # context, not prompt
                given &= (tokens != canvas.bos_token_id) | (canvas.position_ids[rows] > 0)
            return canvas.inputs(rows, where) | {"input_ids": tokens.masked_fill(given, canvas.mask_token_id)}, where
        tokens = torch.cat([self.prompt[rows], tokens[:, self.width :]], dim=1)
        attended = torch.cat([self.attended[rows], attended[:, self.width :]], dim=1)
        where = torch.cat([torch.zeros_like(self.attended[rows]), where[:, self.width :]], dim=1)
        return model_inputs(tokens, attended, real_positions(attended)), where

    def combine(self, given: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Guided log-probabilities (n, V) from logits (n, V) of both canvases; -inf stays -inf."""
        given, other = given.log_softmax(-1), other.log_softmax(-1)
        return torch.where(given.isinf(), given, other + self.scale * (given - other))


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

    def at(self, rows: torch.Tensor, block: torch.Tensor, t: torch.Tensor) -> "Prediction":
        """What a sampler gets at a step: for `rows` (R,), which are at `block` (R,) and time t (R, 1)."""
        return Prediction(self, rows, block, t)

    def logits(
        self, rows: torch.Tensor, block: torch.Tensor, t: torch.Tensor, where: torch.Tensor, times: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, slice]]:
        """(raw, processed, part) for each part of the N True positions of `where` (R, L): their logits (n, V) before and after
        the processors, one tensor without processors, which may be overwritten; and the slice of the N.

        `times` (R,) is what a time-conditioned model is told; None: t.
        """
        needed = where.any(-1)
        if not bool(needed.any()):
            return
        run, where, t = rows[needed], where[needed], t[needed]
        told = self._model_times(t[:, 0] if times is None else times[needed], block[needed], run)
        if self.cache is None:
            states = self._states(self.canvas.inputs(run, where), where, told)
        else:
            states = self.cache.states(run, block[needed], where, told)
        other = None
        if self.guidance is not None:
            inputs, elsewhere = self.guidance.other(self.canvas, run, where)
            other = self._states(inputs, elsewhere, told)
        self.canvas.num_forwards[run] += 1 if other is None else 2
        owner, column = where.nonzero().unbind(1)
        tokens, early = self.canvas.tokens[run], self.canvas.is_early(run[owner], column)
        own_token = None
        if self.canvas.corruption.sees_own_token:
            own_token = tokens[where], self.canvas.schedule.mask_rate(told["timesteps"][where])
        for part in self._parts(len(states)):
            raw = self._logits(states[part], 0)
            if own_token is not None:
                raw = self.canvas.corruption.without_own_token(raw, *(values[part] for values in own_token))
            if other is not None and self.guidance is not None:
                raw = self.guidance.combine(raw, self._logits(other[part], 1))
            # Before the processors: top-p could leave nothing but an end.
            allowed = raw if early is None else self._without_ends(raw, early[part])
            yield raw, self._process(allowed, tokens, t, owner[part]), part

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

    def _without_ends(self, logits: torch.Tensor, early: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) that cannot end the text where `early` (n,) is True."""
        ends = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        ends[self.canvas.ending_ids()] = True
        return logits.masked_fill(early[:, None] & ends, -torch.inf)

    def _model_times(self, times: torch.Tensor, block: torch.Tensor, run: torch.Tensor) -> dict[str, torch.Tensor]:
        """`timesteps` (R,) for a time-conditioned model; with blocks, the times at which a whole canvas has as many masks."""
        if self.canvas.corruption.tells_noise:
            return {"timesteps": self.canvas.levels(run, block, times).float()}
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


@dataclass(frozen=True)
class Prediction:
    """The model for `rows` (R,) at `block` (R,) and time t (R, 1): one step of a sampler."""

    predictor: Predictor
    rows: torch.Tensor
    block: torch.Tensor
    t: torch.Tensor

    def propose(
        self,
        where: torch.Tensor,
        uniform: torch.Tensor | None,
        *,
        statistics: Collection[str] = (),
        process: Callable[[torch.Tensor, slice], torch.Tensor] | None = None,
        times: torch.Tensor | None = None,
        standing: torch.Tensor | None = None,
    ) -> Proposal:
        """A `Proposal` for the True positions of `where` (R, L), N of them in row-major order.

        Args:
            uniform: (N,) float64 in [0, 1) that draw the tokens, or None for the most probable ones.
            statistics: which of `"margin"` and `"entropy"` are wanted.
            process: what else happens to processed logits (n, V) before tokens are drawn; gets their slice of the N too.
                The confidence is then that of the distribution that comes out.
            times: (R,) the times that a time-conditioned model is told; None: t.
            standing: (N,) tokens whose probabilities are wanted.
        """
        parts = []
        for raw, processed, part in self.predictor.logits(self.rows, self.block, self.t, where, times):
            if process is not None:
                raw = processed = process(processed, part)
            own = None if standing is None else standing[part]
            parts.append(choose(raw, processed, None if uniform is None else uniform[part], statistics, own))
        return _join(parts, where)

    def after(self, draft: Draft, t: torch.Tensor) -> "Prediction":
        """The model for the same rows as `draft` has them, at time t (R, 1)."""
        self.predictor.canvas.write(self.rows, draft)
        return replace(self, t=t)


def choose(
    raw: torch.Tensor,
    processed: torch.Tensor,
    uniform: torch.Tensor | None,
    statistics: Collection[str] = (),
    standing: torch.Tensor | None = None,
) -> Proposal:
    """A token for each of n positions from their logits (n, V), which are overwritten: drawn from the processed ones by
    `uniform` (n,), or the most probable one; the scores are of the raw ones, that of the `standing` tokens (n,) of the processed."""
    one, there = raw is processed, None
    if uniform is None:
        tokens = processed.argmax(-1)
        there = None if standing is None else refined(tokens == standing)
    elif not one:
        drawn = _shift(processed).exp_()
        tokens = inverse_cdf(drawn, uniform)
        there = None if standing is None else _at_tokens(drawn, standing) / drawn.sum(-1, dtype=finest(drawn.device))
    shifted = _shift(raw)
    weights = shifted.exp() if "entropy" in statistics else shifted.exp_()
    sums = block_sums(weights)
    total = sums.sum(-1)
    if one and uniform is not None:
        tokens = inverse_cdf(weights, uniform, sums)
    confidence = _at_tokens(weights, tokens) / total
    if standing is not None and there is None:
        there = _at_tokens(weights, standing) / total
    margin = entropy = None
    if "margin" in statistics:
        margin = -refined(two_largest(weights)).diff(dim=-1)[:, 0] / total
    if "entropy" in statistics:
        # Of weights w = exp(x): log(sum w) - sum(w x) / sum(w); clamped, as 0 times -inf is NaN.
        entropy = total.log() - refined(shifted.clamp_(min=-1e4).mul_(weights).sum(-1)) / total
    return Proposal(tokens, confidence, margin, entropy, there)


def _at_tokens(weights: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return refined(weights.gather(-1, tokens[:, None])[:, 0])


def _shift(logits: torch.Tensor) -> torch.Tensor:
    """logits (n, V) less each row's largest, in place."""
    return logits.sub_(logits.amax(-1, keepdim=True))


def _join(parts: list[Proposal], where: torch.Tensor) -> Proposal:
    if not parts:
        empty = torch.zeros(0, dtype=finest(where.device), device=where.device)
        return Proposal(empty.long(), empty, empty, empty, empty)
    names = ("tokens", "confidence", "margin", "entropy", "standing")
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    return Proposal(**{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})
