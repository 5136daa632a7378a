"""The order of Eso-LM: a share of the positions is written by diffusion, in any order, and the rest from left to right.

Source: Sahoo et al. 2025, arXiv 2506.01928, variant "B". Every position has a rank, the order of writing, and sees those of lower rank.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .corruption_mdlm import Corruption
from .order_mdlm import Corrupted, Draws, Order, beside_clean, doubled, ranked, sample_timesteps, stratified
from .precision_mdlm import finest, refined
from .schedule_mdlm import NoiseSchedule, ScaledSchedule
from .sight_mdlm import Sight, sight_beside_clean


@dataclass(frozen=True)
class Esoteric(Order):
    """Positions are written by diffusion until a share `alpha_0` is there, then one after another from left to right.

    Two passes are trained, on different rows of a batch:
    - diffusion, of a noisy row z: a position sees itself and those of lower rank. Clean ones come first, in random order, then
      masked ones, in random order.
    - left to right, of z at t = 0 and the clean row behind it, [z_0 ; x]: a masked position sees itself and the clean tokens of
      lower rank. Clean ones come first, in random order, then masked ones from left to right.
    Positions that are given, such as a BOS, have the lowest ranks, from left to right.

    Args:
        alpha_0: in [0, 1]. 1 skips the second pass, 0 skips the first pass.
    """

    alpha_0: float
    block_length: ClassVar[None] = None  # type: ignore[misc]
    has_ranks = True
    samplers = ("ancestral",)

    @property
    def copies(self) -> int:
        return 1 if self.alpha_0 == 1 else 2

    @property
    def inputs_of_draw(self) -> int:
        return 1 if self.alpha_0 in (0, 1) else 2

    def schedule(self, base: NoiseSchedule) -> NoiseSchedule:
        return ScaledSchedule(base, self.alpha_0)

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
        second, factors = self._passes(len(tokens), generator)
        times = torch.ones(len(tokens))
        if not bool(second.all()):
            times[~second] = sample_timesteps(int((~second).sum()), generator, stratified, window)
        rates = torch.where(second, 1 - self.alpha_0, schedule.mask_rate(times))
        changed = (torch.rand(tokens.shape, generator=generator) < rates[:, None]) & open
        own = corruption.loss_weights(objective, times)
        weights = factors * torch.where(second, 1.0, corruption.bound_weights(schedule, times) if own is None else own)
        ranks = ranks_of(open, changed, second, torch.rand(tokens.shape, generator=generator, dtype=torch.float64))
        noisy = torch.where(changed, corruption.replacements(tokens.shape, generator), tokens)
        inputs = self.inputs(noisy, tokens, torch.ones_like(open), self._sight(ranks, second))
        labels = tokens.masked_fill(~corruption.labelled(changed, open, objective), -100)
        return Corrupted(
            inputs["input_ids"],
            beside_clean(labels, -100, inputs["input_ids"].shape[1]),
            None,
            weights,
            inputs.get("position_ids"),
            inputs["sight"],
        )

    def _passes(self, rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,) bool, the rows of the second pass, a half of them at random, and (B,) the factors that make of each pass an
        estimate for all rows."""
        if self.alpha_0 in (0, 1):
            return torch.full((rows,), self.alpha_0 == 0), torch.ones(rows)
        order = torch.randperm(rows, generator=generator)  # batches are sorted by length
        count = rows // 2 + (int(torch.randint(2, (), generator=generator)) if rows % 2 else 0)
        second = order < count
        # One over the probability of a row to be in its pass. Of one row alone it is that of the coin.
        sizes = torch.where(second, count, rows - count) if rows > 1 else torch.tensor([0.5])
        return second, rows / sizes

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
        length, parts = int(scored.sum()), []
        for second in [False] * (self.alpha_0 > 0) + [True] * (self.alpha_0 < 1):
            counts, order = stratified_sets(self._law(length, second), num_samples, antithetic, generator)
            changed = torch.zeros(num_samples, len(scored), dtype=torch.bool)
            changed[:, scored] = order >= length - counts[:, None]
            uniform = torch.zeros(changed.shape, dtype=torch.float64)
            uniform[:, scored] = order.double() / length
            rates = counts / length
            # By diffusion the sum over k of P(more than L - k are written) / k times the mean loss of k masked positions.
            weights = torch.ones(num_samples, dtype=torch.float64)
            if not second:
                weights = self.alpha_0 * corruption.stratum_weights(counts, rates, length)
            noisy = torch.where(changed, corruption.replacements(changed.shape, generator), tokens)
            both = torch.full((num_samples,), second)
            sight = self._sight(ranks_of(scored, changed, both, uniform, attended), both)
            labelled = corruption.labelled(changed, scored.expand_as(changed), "nelbo")
            parts.append(Draws(noisy, labelled, weights, rates, torch.arange(num_samples), sight))
        return Draws(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _law(self, length: int, second: bool) -> torch.Tensor:
        """(L + 1,) probabilities of 0 to L masked positions in a draw of the bound."""
        written = torch.distributions.Binomial(length, torch.tensor(self.alpha_0, dtype=torch.float64))
        masked = written.log_prob(torch.arange(length, -1.0, -1.0, dtype=torch.float64)).exp()
        if second:
            return masked
        return torch.cat([masked.new_zeros(1), masked.cumsum(0)[:-1]]) / (length * self.alpha_0)

    def orders(
        self,
        tokens: torch.Tensor,
        scored: torch.Tensor,
        attended: torch.Tensor,
        corruption: Corruption,
        num_orders: int,
        generator: torch.Generator,
    ) -> Draws:
        """Inputs whose losses add up to the -log probability of one row (L,) along an order of writing, one position at a time.

        Each position is written by diffusion with probability alpha_0, those first, in any order, then the others from left to
        right. Arguments as in `bound_draws`.
        """
        shape = num_orders, len(scored)
        drawn = torch.rand(2, num_orders, int(scored.sum()), generator=generator, dtype=torch.float64)
        uniform, last = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        uniform[:, scored], last[:, scored] = drawn[0], drawn[1] >= self.alpha_0
        noisy = torch.where(scored, corruption.replacements(shape, generator), tokens)
        ones, numbers = torch.ones(num_orders, dtype=torch.float64), torch.arange(num_orders)
        ranks = ranks_of(scored, last, numbers >= 0, uniform, attended)
        return Draws(noisy, scored.expand(shape), ones, ones, numbers, sight_beside_clean(ranks))

    def inputs(
        self, noisy: torch.Tensor, clean: torch.Tensor, attended: torch.Tensor, sight: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        if sight is None:
            raise ValueError("sight=None: positions see each other in their order of writing, which has to be told")
        if sight.shape[-1] == 2 * noisy.shape[1]:
            return doubled(noisy, clean, attended, sight)
        inputs = {"input_ids": noisy, "sight": sight}
        return inputs | ({} if bool(attended.all()) else {"attention_mask": attended.long()})

    def sight(self, masked: torch.Tensor, attended: torch.Tensor) -> Sight:
        rows = torch.ones(len(masked), dtype=torch.bool, device=masked.device)
        ranks = ranks_of(masked, masked, rows, torch.zeros(masked.shape, device=masked.device), attended)
        return sight_of_ranks(ranks)

    def sight_of_writing(self, ranks: torch.Tensor, where: torch.Tensor) -> Sight:
        """What is written sees what was written before it, and what is written next sees all of that and those of lower rank;
        what comes later is seen by none."""
        placed, width = torch.where(where, next_ranks(ranks, where), ranks), ranks.shape[1]
        there, index = placed >= 0, torch.arange(width, device=ranks.device).expand_as(ranks)
        write, read = torch.where(there, placed, width), torch.where(there, placed, width - 1)
        return Sight(torch.zeros_like(ranks), write, read, index.contiguous())

    def _sight(self, ranks: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(B, 4, L times `copies`) of rows with `ranks` (B, L), in the first or in the second pass (B,)."""
        first = torch.stack(sight_of_ranks(ranks)[:4], dim=1)
        if self.copies == 1:
            return first
        # The clean half of a row in the first pass is there for its shape only. It sees what is ranked first, so that padding
        # sees something, too; nobody sees it.
        width = ranks.shape[1]
        unseen, index = torch.full_like(ranks, 2 * width), torch.arange(width, device=ranks.device).expand_as(ranks)
        rest = torch.stack([torch.zeros_like(ranks), unseen, torch.zeros_like(ranks), -1 - index], dim=1)
        return torch.where(second[:, None, None], sight_beside_clean(ranks), torch.cat([first, rest], dim=2))


def next_ranks(ranks: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """(B, L) the ranks after those of `ranks` (B, L), -1 without one, of the True positions of `new`, from left to right."""
    return ranks.amax(-1, keepdim=True) + new.long().cumsum(-1)


def sight_of_ranks(ranks: torch.Tensor) -> Sight:
    """The sight of positions that see those of their own rank (B, L) and below."""
    return Sight(torch.zeros_like(ranks), ranks.clone(), ranks.clone(), ranks.clone())


def ranks_of(
    open: torch.Tensor,
    masked: torch.Tensor,
    second: torch.Tensor,
    uniform: torch.Tensor,
    attended: torch.Tensor | None = None,
) -> torch.Tensor:
    """(B, L) int64, each position's rank among the L, from 0: given ones, then clean ones, then masked ones, then padding.

    Args:
        open: (B, L) or (L,) bool, positions that are not given.
        masked: (B, L) bool, those of them that are masked.
        second: (B,) bool, rows whose masked positions go from left to right.
        uniform: (B, L) float64 in [0, 1), by which other positions that are not given are ordered.
        attended: as `open`, False at padding; None: no padding.
    """
    width = masked.shape[1]
    from_left = (torch.arange(width, device=masked.device, dtype=finest(masked.device)) / width).expand_as(masked)
    key = torch.where(second[:, None] & masked, from_left, refined(uniform)) + 1 + refined(masked)
    key = torch.where(open, key, from_left)
    if attended is not None:
        key = torch.where(attended, key, 3 + from_left)
    return key.argsort(dim=-1, stable=True).argsort(dim=-1)


def stratified_sets(
    law: torch.Tensor, num_samples: int, antithetic: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(counts (S,), orders (S, L)): how many of L positions are chosen, by a law (L + 1,) and stratified over the draws, and
    random orders of the L, of which the last ones are. `antithetic` as in `Order.bound_draws`."""
    length, u = len(law) - 1, stratified(num_samples, antithetic, generator)
    counts = torch.searchsorted(law.cumsum(0), u, right=True).clamp(max=length)
    return counts, ranked(num_samples, length, antithetic, generator)[1]
