"""Samplers: which masked positions to fill at a step, and with what.

A sampler is a small frozen object with one pure method, `step`. The generation loop owns all state: it calls `step`
with times t > s on a falling grid and puts the returned draft on the canvas. `@register_sampler("name")` adds one.

    draft --step--> predict.propose(where) -> Proposal: a token for each position --> draft.fill(chosen, ...)
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from transformers import GenerationConfig

from .canvas_mdlm import Canvas, Draft, Proposal, Timetable
from .configuration_mdlm import MDLMConfig
from .family_mdlm import family_of
from .noise_mdlm import RowNoise
from .prediction_mdlm import Prediction
from .schedule_mdlm import NoiseSchedule

POSITION, TOKEN, TIME, REMASK = range(4)  # purposes of a step's noise

SamplerClass = TypeVar("SamplerClass", bound="Sampler")
_SAMPLERS: dict[str, dict[str, type["Sampler"]]] = {}  # by noise, then by name


def register_sampler(name: str, noise: str = "masked") -> Callable[[type[SamplerClass]], type[SamplerClass]]:
    """Class decorator: make a `Sampler` known to `generate(sampler=name)`.

    Args:
        name (`str`): what `sampler=` is then called with; a name that exists is replaced.
        noise (`str`, defaults to `"masked"`): the noise of the models that it is for (`Corruption.name`). Two noises may have
            samplers of one name.

    Returns:
        The decorator, which returns the class unchanged.

    Example:

    ```python
    >>> from dataclasses import dataclass
    >>> from arche_mdlm import Sampler, register_sampler
    >>> from arche_mdlm.samplers_mdlm import even_share, top_k_per_row
    >>> @register_sampler("leftmost")
    ... @dataclass(frozen=True)
    ... class LeftmostSampler(Sampler):
    ...     def step(self, predict, draft, t, s, noise):
    ...         chosen = top_k_per_row(draft.masked.double(), even_share(draft.masked, t, s)) & draft.masked
    ...         return draft.fill(chosen, self.propose(predict, chosen, noise))

    ```
    """

    def register(cls: type[SamplerClass]) -> type[SamplerClass]:
        _SAMPLERS.setdefault(noise, {})[name] = cls
        return cls

    return register


def available_samplers(noise: str = "masked") -> list[str]:
    """Names that `generate(sampler=...)` takes for a model of that noise."""
    return sorted(_SAMPLERS[noise])


def sampler_options() -> dict[str, list[str]]:
    """Fields of the generation config that belong to some sampler and not to all, each with its samplers."""
    found: dict[str, list[str]] = {}
    for noise, samplers in _SAMPLERS.items():
        for name, cls in samplers.items():
            for option in cls.options:
                found.setdefault(option, []).append(name if noise == "masked" else f"{name} ({noise} noise)")
    return found


def get_sampler(name: str, noise: str = "masked") -> type["Sampler"]:
    """The sampler class of that name for a noise; ValueError, with those that fit, for one that does not exist."""
    own = _SAMPLERS[noise]
    if name not in own:
        fitting = ", ".join(available_samplers(noise))
        others = [other for other, samplers in _SAMPLERS.items() if name in samplers]
        if others:
            raise ValueError(f"sampler={name!r} is for {others[0]} noise; a model of {noise} noise takes {fitting}")
        near = difflib.get_close_matches(str(name), own, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"sampler={name!r} is not one of {fitting}{hint}")
    return own[name]


@dataclass(frozen=True)
class Sampler(ABC):
    """Base of all samplers. A subclass adds its own settings as fields and names them in `options`.

    Args:
        schedule: the model's noise schedule.
        temperature: of the generation config; used only by a sampler with `anneals_temperature`, for which the loop
            leaves the temperature out of the logits processors.
        do_sample: False means the most probable token instead of a drawn one.
    """

    schedule: NoiseSchedule
    temperature: float = 1.0
    do_sample: bool = True

    options: ClassVar[tuple[str, ...]] = ()  # fields of the generation config that the sampler reads
    anneals_temperature: ClassVar[bool] = False
    remasks: ClassVar[bool] = False  # may mask again what it has filled, so a full canvas is not the end
    # Decides by itself how many positions to fill: without num_diffusion_steps it gets a step a mask, not the default.
    sets_own_pace: ClassVar[bool] = False
    # Fills ends and pads first, so that its texts have a sensible length only where that is drawn beforehand.
    draws_length: ClassVar[bool] = False

    @classmethod
    def from_config(cls, generation_config: GenerationConfig, model_config: MDLMConfig) -> "Sampler":
        """The sampler with the settings of a generation config; ValueError for one outside its range."""
        own = {name: getattr(generation_config, name, None) for name in cls.options}
        return cls(
            schedule=family_of(model_config).schedule,
            temperature=1.0 if generation_config.temperature is None else generation_config.temperature,
            do_sample=bool(generation_config.do_sample),
            **cls.of_model(model_config),
            **{name: value for name, value in own.items() if value is not None},
        )

    @classmethod
    def of_model(cls, model_config: MDLMConfig) -> dict[str, Any]:
        """More fields of the sampler, which a model's configuration gives."""
        return {}

    @abstractmethod
    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        """The draft after one step.

        Args:
            predict (`Prediction`): runs the model; hand it on to `self.propose`, with masked positions only.
            draft (`Draft`): B canvases of L positions; not to be changed in place.
            t (`torch.Tensor`, (B, 1), float64): the time of each row before the step, in (0, 1].
            s (`torch.Tensor`, (B, 1), float64): its time after the step, in [0, t).
            noise (`RowNoise`): the rows' random streams at this step.

        Returns:
            `Draft`: made by `draft.fill` and `draft.remask`.

        Example: see `register_sampler`.
        """

    def finishing_time(self, t: torch.Tensor) -> torch.Tensor:
        """The time (B, 1) at which `finish` wants its prediction, for rows that have come to t (B, 1)."""
        return torch.zeros_like(t)

    def finish(self, predict: Prediction, draft: Draft, t: torch.Tensor, noise: RowNoise) -> Draft:
        """The draft with all that is open settled at once: for what the steps left open, or had no time for."""
        return draft.fill(draft.masked, predict.propose(draft.masked, None))

    def propose(self, predict: Prediction, where: torch.Tensor, noise: RowNoise, **options: Any) -> Proposal:
        """A token, drawn or the most probable one, for each True position; rows without one are not run.

        Args:
            predict (`Prediction`): as `step` gets it.
            where (`torch.Tensor`, (B, L), bool): N True positions.
            noise (`RowNoise`): as `step` gets it.
            **options: `times`, `statistics`, `process` and `standing` of `Prediction.propose`.

        Returns:
            `Proposal` of N tokens, in row-major order.
        """
        uniform = noise.uniform(TOKEN)[where] if self.do_sample else None
        return predict.propose(where, uniform, **options)


def even_share(masked: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """(B,) how many positions to fill if the masked ones (B, L) are shared out over the steps left, from above."""
    return torch.ceil(masked.sum(-1) * (1 - s / t)[:, 0] - 1e-6).long()


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

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        chosen = self.may_fill(draft.masked, t, s, noise)
        return draft.fill(chosen, self.propose(predict, chosen, noise))

    def may_fill(self, masked: torch.Tensor, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> torch.Tensor:
        """(B, L) bool: the masked positions (B, L) that are filled, which no prediction changes. It takes many steps at once,
        as a dimension in front of everything."""
        fill_rate = 1 - self.schedule.mask_rate(s) / self.schedule.mask_rate(t)
        return masked & (noise.uniform(POSITION) < fill_rate)


@dataclass(frozen=True)
class LeftToRightSampler(Sampler):
    """The leftmost masked position of each row: what Eso-LM does with all that diffusion has left."""

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        chosen = draft.masked & (draft.masked.long().cumsum(-1) == 1)
        return draft.fill(chosen, self.propose(predict, chosen, noise))


@register_sampler("first_hitting")
@dataclass(frozen=True)
class FirstHittingSampler(Sampler):
    """The times at which positions are filled, drawn directly (Zheng et al. 2024, arXiv 2409.02908, section 4.2).

    Each position's time is drawn once; the latest masked one is filled next, by a model that is told that time. With a
    step a mask this is ancestral sampling in the limit of many steps, exactly. With fewer steps, an even share of
    the positions is filled together, in the same order.
    """

    sets_own_pace = True

    def step(self, predict: Prediction, draft: Draft, t: torch.Tensor, s: torch.Tensor, noise: RowNoise) -> Draft:
        hits = noise.at_step(0).uniform(TIME).masked_fill(~draft.masked, -1.0)  # mask rates at the hitting times
        chosen = draft.masked & top_k_per_row(hits, even_share(draft.masked, t, s))
        times = self.schedule.time_at(hits.amax(-1).clamp(min=0))
        return draft.fill(chosen, self.propose(predict, chosen, noise, times=times))


_LOOK_AHEAD = 1 << 20  # positions times steps looked at at once


def left_to_right_steps(
    sampler: Sampler, canvas: Canvas, plan: Timetable
) -> Iterator[tuple[int, Sampler, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(step, sampler, block, t, s) of the steps behind those of a plan: one a position, for an order that writes the rest from left
    to right; none for others."""
    if not canvas.order.has_ranks:
        return
    rest = LeftToRightSampler(sampler.schedule, sampler.temperature, sampler.do_sample)
    block, zero = torch.zeros_like(canvas.num_blocks), torch.zeros_like(canvas.confidence[:, :1])
    for number in range(int(canvas.masked.sum(-1).max())):
        yield plan.total + number, rest, block, zero, zero


def busy_steps(sampler: Sampler, canvas: Canvas, plan: Timetable, seeds: torch.Tensor) -> Iterator[int]:
    """The steps of a plan that may fill something, in order; those of a sampler that can tell beforehand (`may_fill`)."""
    if not hasattr(sampler, "may_fill") or plan.total <= int(canvas.masked.sum(-1).max()):
        yield from range(plan.total)  # with so few steps nearly all of them do
        return
    size = max(1, _LOOK_AHEAD // canvas.tokens.numel())
    for first in range(0, plan.total, size):
        steps = torch.arange(first, min(first + size, plan.total), device=seeds.device)
        block, t, s = plan.at(steps[:, None])
        open_there = canvas.masked & (canvas.block == block[..., None])  # (K, B, L)
        noise = RowNoise(seeds, canvas.position_ids, steps[:, None])
        fills = sampler.may_fill(open_there, t, s, noise)
        fills &= fills.cumsum(0) == 1  # later fills find the position already filled
        yield from steps[fills.flatten(1).any(-1)].tolist()
