"""Where and when a text is corrupted: one half of a diffusion family. The other half, `corruption_mdlm`, says how."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch.nn import functional

from .corruption_mdlm import Corruption
from .schedule_mdlm import NoiseSchedule
from .sight_mdlm import Sight, real_positions, sight_beside_clean

ANTITHETIC = ("none", "counts", "complement")


class Corrupted(NamedTuple):
    """Keyword arguments of `MDLMForMaskedDiffusion.forward`, for B rows of L positions."""

    input_ids: torch.Tensor  # (B, L), noise where corrupted
    labels: torch.Tensor  # (B, L), the clean token where there is a loss, -100 elsewhere
    # (B,); as input_ids where each position is told its own; None where a row has several
    timesteps: torch.Tensor | None
    loss_weights: torch.Tensor | None  # (B,) or as input_ids; None: the model's own
    position_ids: torch.Tensor | None = None  # as input_ids, where positions are not counted from 0
    sight: torch.Tensor | None = None  # (B, 4, N), of N inputs; None: what the model's configuration says
    mixture_ids: torch.Tensor | None = None  # (B, L, K), where the model reads means of the embeddings of K tokens
    mixture_weights: torch.Tensor | None = None  # (B, L, K)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Those that are there, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Draws(NamedTuple):
    """S draws of a row's bound, of N inputs: one each, or several that add up to one."""

    noisy: torch.Tensor  # (N, L), the row with its corrupted positions
    scored: torch.Tensor  # (N, L) bool, the positions whose losses count
    weights: torch.Tensor  # (N,) or (N, L) float64, of the losses
    rates: torch.Tensor  # (N,), or (N, L) where each position has its own, the noise levels 1 - alpha
    numbers: torch.Tensor | None = None  # (N,) of the draw, from 0, to which an input adds; None: one input a draw
    sight: torch.Tensor | None = None  # (N, 4, width of the inputs), where the order draws it


class Order(ABC):
    """Layout and times of a family; it knows nothing of the noise."""

    block_length: int | None  # of generation, where it is not asked for
    any_length: bool = False  # whether texts may be longer than the context: what is written sees a part of them
    has_ranks: ClassVar[bool] = False  # whether positions see each other in their order of writing
    samplers: ClassVar[tuple[str, ...] | None] = None  # that fit; None: all of the noise

    @property
    def copies(self) -> int:
        """How often a row is in the inputs: twice where the clean one stands behind the noisy one."""
        return 1

    @property
    def inputs_of_draw(self) -> int:
        """How many inputs add up to a draw of the bound."""
        return 1

    def schedule(self, base: NoiseSchedule) -> NoiseSchedule:
        """The noise schedule of a family, from that which its configuration names."""
        return base

    def sight(self, masked: torch.Tensor, attended: torch.Tensor) -> Sight | None:
        """Who sees whom on canvases (B, L) of which no order of writing is known, by where they are masked and where they are
        no padding; None where that depends on neither (not `has_ranks`)."""
        return None

    def sight_of_writing(self, ranks: torch.Tensor, where: torch.Tensor) -> Sight | None:
        """Who sees whom on canvases (B, L) that have been written in an order (`Canvas.ranks`), when the True positions of `where`
        (B, L) are written next; None where that does not depend on the order of writing (not `has_ranks`)."""
        return None

    @abstractmethod
    def lay_out(
        self,
        tokens: torch.Tensor,
        open: torch.Tensor,
        corruption: Corruption,
        schedule: NoiseSchedule,
        objective: str,
        generator: torch.Generator,
        stratified: bool = True,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> Corrupted:
        """Clean rows (B, L) as a training batch; only positions where `open` (B, L) is True are corrupted.

        Args:
            objective: one of the corruption's.
            stratified, window: times as in `sample_timesteps`.
        """

    @abstractmethod
    def bound_draws(
        self,
        tokens: torch.Tensor,
        scored: torch.Tensor,
        attended: torch.Tensor,
        corruption: Corruption,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        """Draws whose weighted losses have the NELBO of one row as their mean.

        Args:
            tokens: (L,) the clean row.
            scored: (L,) bool, the positions of which the likelihood is wanted.
            attended: (L,) bool, False at padding.
            antithetic: one of `ANTITHETIC`; pairs stand next to each other. See `metrics.likelihood.nelbo`.
        """

    def inputs(
        self, noisy: torch.Tensor, clean: torch.Tensor, attended: torch.Tensor, sight: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The model's inputs for noisy rows (B, L) beside their clean ones; the first L outputs are those of the noisy ones.

        Args:
            attended: (B, L) bool, False at padding, on either side.
            sight: (B, 4, L times `copies`), of an order that draws it (`Draws.sight`).
        """
        return {"input_ids": noisy} | ({} if bool(attended.all()) else {"attention_mask": attended.long()})


@dataclass(frozen=True)
class Whole(Order):
    """One time for all positions of a row, in no order."""

    block_length: ClassVar[None] = None  # type: ignore[misc]

    def lay_out(
        self,
        tokens: torch.Tensor,
        open: torch.Tensor,
        corruption: Corruption,
        schedule: NoiseSchedule,
        objective: str,
        generator: torch.Generator,
        stratified: bool = True,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> Corrupted:
        timesteps = sample_timesteps(len(tokens), generator, stratified, window)
        uniform = torch.rand(tokens.shape, generator=generator)
        changed = (uniform < schedule.mask_rate(timesteps)[:, None]) & open
        noisy = torch.where(changed, corruption.replacements(tokens.shape, generator), tokens)
        labels = tokens.masked_fill(~corruption.labelled(changed, open, objective), -100)
        if corruption.tells_noise:
            timesteps = torch.where(open, timesteps[:, None], 0.0)
        return Corrupted(noisy, labels, timesteps, corruption.loss_weights(objective, timesteps))

    def bound_draws(
        self,
        tokens: torch.Tensor,
        scored: torch.Tensor,
        attended: torch.Tensor,
        corruption: Corruption,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        positions = scored.nonzero()[:, 0]
        length, least = len(positions), corruption.least_changed
        u = stratified(num_samples, antithetic, generator)
        counts = (u * (length + 1 - least)).long().clamp(max=length - least) + least
        # Ranks among the row's own positions only: where padding stands changes nothing.
        uniform, ranks = ranked(num_samples, length, antithetic, generator)
        rates = corruption.stratum_rates(counts, uniform)
        weights = corruption.stratum_weights(counts, rates, length)
        changed = torch.zeros(num_samples, len(scored), dtype=torch.bool)
        changed[:, positions] = ranks < counts[:, None]
        noisy = tokens.repeat(num_samples, 1)
        noisy[:, positions] = corruption.replacements((num_samples, length), generator)
        noisy = torch.where(changed, noisy, tokens)
        open = scored.expand_as(changed)
        if corruption.tells_noise:
            rates = torch.where(open, rates[:, None], 0.0)
        return Draws(noisy, corruption.labelled(changed, open, "nelbo"), weights, rates)


@dataclass(frozen=True)
class Blocks(Order):
    """Blocks of `block_length` positions, each with a time of its own, given the clean blocks before it (block diffusion, Arriola et
    al. 2025, arXiv 2503.09573).

    A training pass reads the noisy row and the clean one behind it, [z ; x]: a noisy block sees itself and the clean blocks
    before it, a clean one itself and those before it. Blocks are counted from position 0, where a BOS stands.
    """

    block_length: int
    any_length = True

    @property
    def copies(self) -> int:
        return 2

    def lay_out(
        self,
        tokens: torch.Tensor,
        open: torch.Tensor,
        corruption: Corruption,
        schedule: NoiseSchedule,
        objective: str,
        generator: torch.Generator,
        stratified: bool = True,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> Corrupted:
        rows, width = tokens.shape
        number = torch.arange(width) // self.block_length
        times = sample_timesteps(rows * (int(number[-1]) + 1), generator, stratified, window).view(rows, -1)
        if self.block_length == 1 and corruption.has_order:
            # Weight 1/t times a mask of probability t: t = 1 has the same mean, and no variance.
            times = torch.ones_like(times)
        changed = (torch.rand(tokens.shape, generator=generator) < schedule.mask_rate(times)[:, number]) & open
        weights = corruption.loss_weights(objective, times)
        weights = (corruption.bound_weights(schedule, times) if weights is None else weights)[:, number]
        noisy = torch.where(changed, corruption.replacements(tokens.shape, generator), tokens)
        inputs = self.inputs(noisy, tokens, torch.ones_like(open))
        labels = tokens.masked_fill(~corruption.labelled(changed, open, objective), -100)
        return Corrupted(
            inputs["input_ids"],
            beside_clean(labels, -100, 2 * width),
            beside_clean(torch.where(open, times[:, number], 0.0), 0, 2 * width) if corruption.tells_noise else None,
            beside_clean(weights, 0, 2 * width),
            inputs["position_ids"],
            inputs["sight"],
        )

    def bound_draws(
        self,
        tokens: torch.Tensor,
        scored: torch.Tensor,
        attended: torch.Tensor,
        corruption: Corruption,
        num_samples: int,
        antithetic: str,
        generator: torch.Generator,
    ) -> Draws:
        block = real_positions(attended) // self.block_length
        noisy = tokens.repeat(num_samples, 1)
        counted = torch.zeros(num_samples, len(scored), dtype=torch.bool)
        weights, rates = torch.zeros(2, num_samples, len(scored), dtype=torch.float64)
        for number in block[scored].unique().tolist():
            own = scored & (block == number)
            draws = Whole().bound_draws(tokens, own, attended, corruption, num_samples, antithetic, generator)
            noisy[:, own], counted[:, own] = draws.noisy[:, own], draws.scored[:, own]
            weights[:, own] = draws.weights[:, None]
            rates[:, own] = draws.rates[:, own].double() if draws.rates.dim() == 2 else draws.rates[:, None].double()
        return Draws(noisy, counted, weights, rates)

    def inputs(
        self, noisy: torch.Tensor, clean: torch.Tensor, attended: torch.Tensor, sight: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        return doubled(noisy, clean, attended, sight_beside_clean(real_positions(attended) // self.block_length))


def stratified(num_samples: int, antithetic: str, generator: torch.Generator) -> torch.Tensor:
    """(S,) float64 numbers in [0, 1], one in each of S equal parts; if `antithetic`, one in each of S / 2 parts, and its 1 - u behind it."""
    strata = num_samples if antithetic == "none" else (num_samples + 1) // 2
    u = (torch.arange(strata) + torch.rand(1, generator=generator, dtype=torch.float64)) / strata
    return u if antithetic == "none" else torch.stack([u, 1 - u], dim=1).flatten()[:num_samples]


def ranked(
    num_samples: int, length: int, antithetic: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random numbers (S, L) in [0, 1) and their ranks; with `"complement"` a draw of a pair has the other's in reverse."""
    uniform = torch.rand(num_samples, length, generator=generator)
    ranks = uniform.argsort(-1).argsort(-1)
    if antithetic == "complement":
        uniform[1::2], ranks[1::2] = 1 - uniform[::2], length - 1 - ranks[::2]
    return uniform, ranks


def beside_clean(values: torch.Tensor, of_clean: float, width: int) -> torch.Tensor:
    """(B, width), values (B, L) of noisy rows and those of the clean ones where inputs of that width have them behind."""
    return functional.pad(values, (0, width - values.shape[1]), value=of_clean)


def doubled(
    noisy: torch.Tensor, clean: torch.Tensor, attended: torch.Tensor, sight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The model's inputs for [z ; x], noisy rows (B, L) and the clean ones behind them at the same positions, by a sight (B, 4, 2 L)."""
    both = {
        "input_ids": torch.cat([noisy, clean], dim=1),
        "position_ids": real_positions(attended).repeat(1, 2),
        "sight": sight,
    }
    return both if bool(attended.all()) else both | {"attention_mask": attended.long().repeat(1, 2)}


def sample_timesteps(
    num_rows: int,
    generator: torch.Generator,
    stratified: bool = True,
    window: tuple[float, float] = (0.0, 1.0),
) -> torch.Tensor:
    """Times (num_rows,) in (0, 1], or above the first number of `window` and up to its second.

    Stratified over the whole batch, t_i = (u + i) / n mod 1 with one u a step and the rows in random order (Sahoo et al.
    2024, arXiv 2406.07524, the low-discrepancy sampler), or independent (the arche paper). With a narrower window the loss is not a
    bound: it has less variance (clipped schedules, Arriola et al. 2025, arXiv 2503.09573, section 5.1).
    """
    if stratified:
        u = torch.rand(1, generator=generator, dtype=torch.float64)
        # In random order: a batch's rows stand in order of length, and no length may always get the same time.
        order = torch.randperm(num_rows, generator=generator)
        times = (u + order) / num_rows % 1
    else:
        times = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    times = 1 - times  # (0, 1]: at t = 0 nothing is corrupted and the NELBO's weight is infinite
    low, high = window
    return (low + (high - low) * times).float()
