"""Samplers: which masked positions to fill at a step, and with what.

A sampler is a small frozen object with one pure method, `step`. The generation loop owns all state: it calls `step`
with times t > s on a falling grid and puts the returned tokens on the canvas. `@register_sampler("name")` adds one.

    tokens (B, L), masked (B, L) --step--> predict(where) -> logits (N, V) --> new tokens (B, L)
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .noise_mdlm import RowNoise
from .schedule_mdlm import NoiseSchedule, get_schedule

POSITION, TOKEN = 0, 1  # purposes of a step's noise

Predict = Callable[[torch.Tensor], torch.Tensor]
_SAMPLERS: dict[str, type["Sampler"]] = {}


def register_sampler(name: str):
    """Class decorator: make a `Sampler` known to `generate(sampler=name)`."""

    def register(cls: type["Sampler"]) -> type["Sampler"]:
        _SAMPLERS[name] = cls
        return cls

    return register


def available_samplers() -> list[str]:
    """Names that `generate(sampler=...)` takes."""
    return sorted(_SAMPLERS)


def get_sampler(name: str) -> type["Sampler"]:
    """The sampler class of that name; ValueError with the nearest name for one that does not exist."""
    if name not in _SAMPLERS:
        near = difflib.get_close_matches(str(name), _SAMPLERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"sampler={name!r} is not one of {', '.join(available_samplers())}{hint}")
    return _SAMPLERS[name]


@dataclass(frozen=True)
class Sampler(ABC):
    """Base of all samplers.

    Args:
        schedule: the model's noise schedule.
        temperature: of the generation config; used only by a sampler with `anneals_temperature`, for which the loop
            leaves the temperature out of the logits processors.
        do_sample: False means the most probable token instead of a drawn one.
    """

    schedule: NoiseSchedule
    temperature: float = 1.0
    do_sample: bool = True
    anneals_temperature = False

    @classmethod
    def from_config(cls, generation_config, model_config) -> "Sampler":
        return cls(
            schedule=get_schedule(model_config.noise_schedule),
            temperature=1.0 if generation_config.temperature is None else generation_config.temperature,
            do_sample=bool(generation_config.do_sample),
        )

    @abstractmethod
    def step(
        self, predict: Predict, tokens: torch.Tensor, masked: torch.Tensor, t: float, s: float, noise: RowNoise
    ) -> torch.Tensor:
        """Tokens (B, L) after going from time t to s < t.

        Args:
            predict: runs the model for a bool mask (B, L) of positions and returns their processed logits (N, V),
                row-major; a row without a position is not run. Call it with masked positions only.
            tokens, masked: (B, L) the canvas, and where it is still masked. Neither may be changed in place.
            noise: the rows' random streams at this step.
        """

    def choose(self, logits: torch.Tensor, where: torch.Tensor, noise: RowNoise) -> torch.Tensor:
        """A token (N,) for each position of `where`: drawn, or the most probable one."""
        return noise.categorical(logits, where, TOKEN) if self.do_sample else logits.argmax(-1)


def top_k_per_row(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: the `counts` (B,) highest scores (B, L) of each row; ties go to the left."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return ranks < counts[:, None]


@register_sampler("ancestral")
@dataclass(frozen=True)
class AncestralSampler(Sampler):
    """Exact ancestral sampling of masked diffusion (Sahoo et al. 2024, arXiv 2406.07524, eq. 7).

    A masked position is filled with probability (alpha(s) - alpha(t)) / (1 - alpha(t)), with a token from
    x_theta. Which ones is drawn before the model runs, so only rows and positions to be filled cost anything.
    """

    def step(self, predict, tokens, masked, t, s, noise):
        t, s = torch.tensor([t, s], dtype=torch.float64)  # float32 times would shift the rates of many small steps
        fill_rate = 1 - self.schedule.mask_rate(s) / self.schedule.mask_rate(t)
        chosen = masked & (noise.uniform(POSITION) < fill_rate)
        if not chosen.any():
            return tokens
        return tokens.masked_scatter(chosen, self.choose(predict(chosen), chosen, noise))


@register_sampler("confidence")
@dataclass(frozen=True)
class ConfidenceSampler(Sampler):
    """Fill the positions whose drawn token is the most probable (MaskGIT, Chang et al. 2022, arXiv 2202.04200; LLaDA).

    The masked positions are shared out evenly over the steps left. Not exact: it favours likely text.
    """

    def step(self, predict, tokens, masked, t, s, noise):
        logits = predict(masked)
        drawn = self.choose(logits, masked, noise)
        count = torch.ceil(masked.sum(-1) * (1 - s / t) - 1e-6).long()
        return commit_most_confident(tokens, masked, logits, drawn, count)


def commit_most_confident(tokens, masked, logits, drawn, count) -> torch.Tensor:
    """Put the `count` (B,) drawn tokens (N,) with the highest probability under logits (N, V) on the canvas."""
    confidence = logits.to(torch.float64).log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
    scores = torch.full(masked.shape, -torch.inf, dtype=torch.float64, device=tokens.device)
    scores = scores.masked_scatter(masked, confidence)
    chosen = masked & top_k_per_row(scores, count)
    return torch.where(chosen, tokens.masked_scatter(masked, drawn), tokens)


@register_sampler("arche")
@dataclass(frozen=True)
class ArcheSampler(Sampler):
    """The released sampler of Vicentino 2026 (arXiv 2603.22075), to the letter, its repetition penalty included.

    Logits of every token already placed are divided by min(1.3^count, 5), signed, so a negative logit RISES; the
    temperature falls from T to 0.4 T as t goes from 1 to 0 (the paper: T = 0.8); floor(masked / steps left)
    positions a step, at least one, go to the drawn tokens of highest probability.
    """

    anneals_temperature = True

    def step(self, predict, tokens, masked, t, s, noise):
        logits = self._penalise(predict(masked), tokens, masked)
        logits = logits / (self.temperature * (0.4 + 0.6 * t))
        drawn = self.choose(logits, masked, noise)
        steps_left = round(t / (t - s))
        count = (masked.sum(-1) // steps_left).clamp(min=1)
        return commit_most_confident(tokens, masked, logits, drawn, count)

    @staticmethod
    def _penalise(logits: torch.Tensor, tokens: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(len(tokens), logits.shape[-1], dtype=logits.dtype, device=logits.device)
        counts.scatter_add_(1, tokens, (~masked).to(logits.dtype))
        penalty = (1.3**counts).clamp(max=5.0)
        rows = masked.nonzero()[:, 0]
        return logits / penalty[rows]
