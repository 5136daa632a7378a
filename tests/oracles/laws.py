"""Exact laws of samplers that draw from the exact posterior of a tiny language, by enumeration of all canvases.

A language is a `TableLanguage`, or a chain short enough to enumerate. A canvas holds a token or a mask at each of the
L positions: there are C = (V + 1)^L. Each law is (S,) float64 over `language.sequences`, in their order, of a sampler
that starts with masks only. V and L of at most 4 take well under a second.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import torch
from torch import nn

Score = Callable[[torch.Tensor], torch.Tensor]
Count = Callable[[torch.Tensor], torch.Tensor]


def ancestral_law(language, mask_rates: Sequence[float]) -> torch.Tensor:
    """Ancestral sampling on a grid of mask rates 1 = r_0 > r_1 > ... > r_T = 0.

    In step k each masked position is filled with probability 1 - r_{k+1} / r_k, independently, and its token drawn from
    the posterior given the canvas before the step.
    """
    rates = _grid(mask_rates)
    return remasking_law(language, len(rates) - 1, lambda k: 1 - rates[k + 1] / rates[k], lambda k: 0.0)


def remasking_law(language, steps: int, fill: Callable[[int], float], remask: Callable[[int], float]) -> torch.Tensor:
    """Steps k = 0, 1, ... that fill and mask again each position independently.

    A position that is masked before step k is filled with probability fill(k), from the posterior given the canvas
    before the step; one that is not is masked with probability remask(k). The last step fills all and masks none.
    """
    walk = _Walk(language)
    for k in range(steps):
        walk.law = walk.moved(walk.law, fill(k), remask(k))
    return walk.over_sequences()


def parallel_law(language, group_sizes: Sequence[int]) -> torch.Tensor:
    """Each step fills so many masked positions at once, every set of them equally probable; the sizes add up to L."""
    walk = _Walk(language)
    for left, size in _groups(language, group_sizes):
        law = torch.zeros_like(walk.law)
        for chosen in combinations(range(language.length), size):
            open_there = walk.masked[:, chosen].all(-1)
            fill = torch.zeros(language.length, dtype=torch.float64).index_fill(0, torch.tensor(chosen), 1.0)
            law += walk.moved(walk.law * open_there / math.comb(left, size), fill)
        walk.law = law
    return walk.over_sequences()


def scored_law(language, group_sizes: Sequence[int | Count], score: Score, temperature: float = 1.0) -> torch.Tensor:
    """Each step draws a token for every masked position and keeps so many, those of highest score; ties to the left.

    Args:
        group_sizes: how many each step keeps; they add up to L. Or maps of the scores (N, L), sorted from the highest
            down with -inf at unmasked positions, to how many (N,): at least one, and then there may be steps to spare.
        score: `confidence`, `margin`, `entropy` or another map of distributions (..., V) to the score (..., V) of each
            token that may be drawn from them. It sees the posterior itself, before temperature.
        temperature: of the distribution that tokens are drawn from.
    """
    walk = _Walk(language)
    posterior = walk.posterior
    tempered = (posterior / posterior.amax(-1, keepdim=True)) ** (1 / temperature)  # no underflow when cold
    walk.posterior = tempered / tempered.sum(-1, keepdim=True)
    scores = score(posterior)  # (C, L, V)
    for size in group_sizes:
        rows = (walk.law * walk.masked.any(-1)).nonzero()[:, 0]
        if not len(rows):
            break
        finished = walk.law * ~walk.masked.any(-1)
        # (R, C): each canvas with all its masks filled.
        drawn = walk.moves(rows, fill=1.0)
        source, draw = drawn.nonzero().T
        weights = walk.law[rows[source]] * drawn[source, draw]
        before, after = walk.canvases[rows[source]], walk.canvases[draw]
        ranked = scores[rows[source]].gather(-1, after[..., None])[..., 0]
        ranked = ranked.masked_fill(~walk.masked[rows[source]], -torch.inf)
        sorted_scores, order = ranked.sort(dim=-1, descending=True, stable=True)
        sizes = size(sorted_scores) if callable(size) else torch.full((len(order),), size)
        best = torch.arange(order.shape[-1]) < sizes[:, None]
        kept = torch.zeros_like(best).scatter_(1, order, best)
        walk.law = finished.index_add(0, walk.index(torch.where(kept, after, before)), weights)
    return walk.over_sequences()


def confidence(probabilities: torch.Tensor) -> torch.Tensor:
    """Each token's own probability (..., V)."""
    return probabilities


def margin(probabilities: torch.Tensor) -> torch.Tensor:
    """The largest probability minus the second, equal for all tokens (..., V)."""
    first, second = probabilities.topk(2).values.split(1, dim=-1)
    return (first - second).expand(probabilities.shape)


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Minus the entropy in nats, equal for all tokens (..., V)."""
    return -torch.special.entr(probabilities).sum(-1, keepdim=True).expand(probabilities.shape)


def fill_counts_law(length: int, mask_rates: Sequence[float]) -> torch.Tensor:
    """(T, L + 1): the probability that step k of ancestral sampling fills n of the L positions.

    A position is filled in step k with probability r_k - r_{k+1}, independently of the others: binomial counts.
    """
    falls = [before - after for before, after in pairwise(_grid(mask_rates))]
    return torch.tensor(
        [[math.comb(length, n) * fall**n * (1 - fall) ** (length - n) for n in range(length + 1)] for fall in falls],
        dtype=torch.float64,
    )


def total_variation(p: torch.Tensor, q: torch.Tensor) -> float:
    """Half the sum of |p - q|, of two laws (S,)."""
    return float((p - q).abs().sum() / 2)


class _Walk:
    """The law (C,) of a sampler's canvas, at first all masks, and the posterior (C, L, V) given each canvas (C, L)."""

    def __init__(self, language):
        size, length = language.vocab_size, language.length
        self.canvases = torch.cartesian_prod(*[torch.arange(size + 1)] * length).view(-1, length)  # a mask is V
        self.masked = self.canvases == size
        self.posterior = language.posterior(self.canvases, ~self.masked)
        self.law = self.masked.all(-1).double()
        self._powers = (size + 1) ** torch.arange(length - 1, -1, -1)

    def index(self, canvases: torch.Tensor) -> torch.Tensor:
        """Where (N,) in the list of all of them canvases (N, L) are."""
        return (canvases * self._powers).sum(-1)

    def moved(self, law: torch.Tensor, fill, remask=0.0) -> torch.Tensor:
        """The law (C,) after a step from `law`; the rates are numbers or (L,)."""
        rows = law.nonzero()[:, 0]
        return law[rows] @ self.moves(rows, fill, remask)

    def moves(self, rows: torch.Tensor, fill, remask=0.0) -> torch.Tensor:
        """(R, C): the law after a step from each of the canvases `rows` (R,)."""
        masked, fill, remask = (
            self.masked[rows],
            *(torch.as_tensor(rate).double()[..., None] for rate in (fill, remask)),
        )
        given = nn.functional.one_hot(self.canvases[rows]).double()
        # (R, L, V + 1): where each position goes, the mask last.
        from_mask = torch.cat([fill * self.posterior[rows], (1 - fill).expand(*masked.shape, 1)], dim=-1)
        from_token = (1 - remask) * given + remask * nn.functional.one_hot(torch.tensor(given.shape[-1] - 1))
        positions = torch.where(masked[..., None], from_mask, from_token)
        if positions.isnan().any():
            raise ValueError("the sampler reaches tokens that cannot occur together, so the posterior is undefined")
        moves = positions[:, 0]
        for position in range(1, positions.shape[1]):
            moves = (moves[:, :, None] * positions[:, position, None]).flatten(1)
        return moves

    def over_sequences(self) -> torch.Tensor:
        """(S,): the law of the sequences without a mask; ValueError if a mask may be left."""
        if self.law[self.masked.any(-1)].sum() > 0:
            raise ValueError("the last step must fill every masked position, and mask none")
        return self.law[~self.masked.any(-1)]


def _grid(mask_rates: Sequence[float]) -> list[float]:
    rates = [float(rate) for rate in mask_rates]
    if rates[0] != 1 or rates[-1] != 0 or any(after >= before for before, after in pairwise(rates)):
        raise ValueError(f"mask rates must fall from 1 to 0: {rates}")
    return rates


def _groups(language, group_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """How many positions are still masked before each step, and how many it fills."""
    if sum(group_sizes) != language.length or min(group_sizes) < 1:
        raise ValueError(f"groups of {list(group_sizes)} positions do not make up {language.length}")
    return [(language.length - sum(group_sizes[:k]), size) for k, size in enumerate(group_sizes)]
