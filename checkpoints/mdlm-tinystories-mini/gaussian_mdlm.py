"""Uniform noise as the argmax of Gaussian latents, and a network's input from the latents themselves (Sahoo et al. 2025, arXiv
2506.10892): w = a e_x + s eps with a^2 = sigmoid(-gamma), s^2 = sigmoid(gamma), and eps one standard normal number a token."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from .corruption_mdlm import Uniform
from .family_mdlm import Family
from .order_mdlm import Corrupted, sample_timesteps

# Of a position's V latents those of the clean token and of so many others are drawn, the largest ones. What the rest would weigh
# in softmax(w / tau), on average, is below 3e-5 at tau = 0.01 and below 4e-3 at 0.02 for V up to 50,257.
OTHERS = 10
LARGEST_TEMPERATURE = 0.02
# Nodes of the trapezoid rule, which is exact to float64 here: the integrand is smooth and vanishes at both ends.
_NODES = torch.linspace(-12, 12, 2401, dtype=torch.float64)
_DENSITY = torch.exp(-0.5 * _NODES**2) / math.sqrt(2 * math.pi)
_STEP = 0.01


@dataclass(frozen=True)
class GaussianLatents:
    """The latents of V tokens; their argmax has the law of uniform noise with alpha(gamma).

    Args:
        num_tokens: V, at least 2.
    """

    num_tokens: int

    def alpha(self, gamma: torch.Tensor) -> torch.Tensor:
        """(V P - 1) / (V - 1), float64, of the shape of `gamma`: P = E_u Phi(e^(-gamma / 2) + u)^(V - 1) is the probability that the
        clean token is the argmax, u being standard normal."""
        logs = torch.special.log_ndtr(_distance(gamma)[..., None] + _NODES)
        largest = (torch.exp((self.num_tokens - 1) * logs) * _DENSITY).sum(-1) * _STEP
        return (self.num_tokens * largest - 1) / (self.num_tokens - 1)

    def slope(self, gamma: torch.Tensor) -> torch.Tensor:
        """d alpha / d gamma, negative; float64, of the shape of `gamma`."""
        distance = _distance(gamma)
        moved = distance[..., None] + _NODES
        logs = (self.num_tokens - 2) * torch.special.log_ndtr(moved) - 0.5 * moved**2
        mean = (torch.exp(logs) / math.sqrt(2 * math.pi) * _DENSITY).sum(-1) * _STEP
        return -0.5 * self.num_tokens * distance * mean

    def gamma_at(self, alpha: float) -> float:
        """The gamma of an alpha in (0, 1)."""
        return _gamma_at(self.num_tokens, alpha)

    def gamma_within(self, window: tuple[float, float], times: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The gamma of each of `times`, float64, of its shape, and d gamma / d t: linear, from the largest alpha of a window at 0 to the
        least at 1."""
        first, last = self.gamma_at(window[1]), self.gamma_at(window[0])
        return first + (last - first) * times.double(), last - first

    def largest(
        self, clean: torch.Tensor, gamma: torch.Tensor, others: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, latents), each (N, 1 + n): the clean token's, then the n largest of the others in order of size, exactly as if all
        V latents had been drawn; n is `others`, or V - 1 if that is less.

        Args:
            clean: (N,) numbers from 0 to V - 1.
            gamma: (N,).
        """
        number, gamma = min(others, self.num_tokens - 1), gamma.double()
        uniform = torch.rand(number, len(clean), generator=generator, dtype=torch.float64)
        left = self.num_tokens - 1 - torch.arange(number)  # of these the largest, then of one less
        # The largest of n uniform numbers is u^(1 / n); the next one is the largest of n - 1 below it.
        logs = (uniform.clamp(min=1e-300).log() / left[:, None]).cumsum(0)
        noise = -torch.special.ndtri(-torch.expm1(logs))
        own = torch.randn(len(clean), generator=generator, dtype=torch.float64)
        scale = torch.sigmoid(gamma).sqrt()
        latents = torch.cat([(torch.sigmoid(-gamma).sqrt() + scale * own)[None], scale * noise])
        tokens, taken = [clean], clean[None]
        for j in range(number):
            size = self.num_tokens - 1 - j
            drawn = (torch.rand(len(clean), generator=generator, dtype=torch.float64) * size).long().clamp(max=size - 1)
            for lower in taken:  # in ascending order: the drawn one of those that are left
                drawn = drawn + (drawn >= lower)
            tokens.append(drawn)
            taken = torch.cat([taken, drawn[None]]).sort(0).values
        return torch.stack(tokens, 1), latents.T

    def decisive(
        self, clean: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What decides the argmax at every gamma, each (N,): the normal number of the clean token, and of the others the token that has
        the largest one, and that number. Exactly as if all V had been drawn."""
        own = torch.randn(len(clean), generator=generator, dtype=torch.float64)
        uniform = torch.rand(len(clean), generator=generator, dtype=torch.float64).clamp(min=1e-300)
        largest = -torch.special.ndtri(-torch.expm1(uniform.log() / (self.num_tokens - 1)))
        other = (torch.rand(len(clean), generator=generator, dtype=torch.float64) * (self.num_tokens - 1)).long()
        other = other.clamp(max=self.num_tokens - 2)
        return own, other + (other >= clean), largest

    def keeps(self, gamma: torch.Tensor, own: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """(N,) bool: whether the clean token is the argmax at `gamma` (N,), of numbers that `decisive` has drawn."""
        return _distance(gamma) + own > largest


def gaussian_latents(family: Family) -> tuple[Uniform, GaussianLatents]:
    """The noise of a family and its latents; ValueError for another noise than uniform."""
    corruption = family.corruption
    if not isinstance(corruption, Uniform):
        raise ValueError(f"a model of {corruption.name} noise has no Gaussian latents: use uniform noise")
    return corruption, GaussianLatents(corruption.num_tokens)


def _distance(gamma: torch.Tensor) -> torch.Tensor:
    """a / s."""
    return torch.exp(-0.5 * gamma.double())


@lru_cache(maxsize=64)
def _gamma_at(num_tokens: int, alpha: float) -> float:
    latents, low, high = GaussianLatents(num_tokens), -60.0, 60.0
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if float(latents.alpha(torch.tensor(middle, dtype=torch.float64))) > alpha else (low, middle)
        )
    return (low + high) / 2


def relaxed_batch(
    tokens: torch.Tensor,
    open: torch.Tensor,
    family: Family,
    temperature: float,
    window: tuple[float, float],
    generator: torch.Generator,
    stratified: bool = True,
) -> Corrupted:
    """A training batch of Duo's curriculum (section 4 there): the network reads softmax(w / temperature) in place of a token.

    Its loss is the term of the NELBO at z = argmax w, the times being uniform in gamma. Of a temperature that falls to 0 the mean is
    the NELBO's integral over the window; it is not a bound.

    Args:
        tokens: (B, L) the clean rows.
        open: (B, L) bool; the other positions are given.
        family: of uniform noise.
        temperature: tau, up to `LARGEST_TEMPERATURE`.
        window: the least and the largest alpha, in (0, 1).
        stratified: as in `sample_timesteps`.
    """
    corruption, latents = gaussian_latents(family)
    if not 0 < temperature <= LARGEST_TEMPERATURE:
        raise ValueError(f"temperature={temperature} must be above 0 and at most {LARGEST_TEMPERATURE}")
    gamma, slope = latents.gamma_within(window, sample_timesteps(len(tokens), generator, stratified))
    drawn, values = latents.largest(
        corruption.index_of(tokens[open]), gamma[:, None].expand(tokens.shape)[open], OTHERS, generator
    )
    ids = tokens[..., None].repeat(1, 1, drawn.shape[1])
    ids[open] = corruption.token_at(drawn)
    weights = torch.zeros(ids.shape)
    weights[..., 0] = 1.0
    weights[open] = (values / temperature).softmax(-1).float()
    noisy = tokens.clone()
    noisy[open] = ids[open].gather(-1, values.argmax(-1, keepdim=True))[:, 0]
    times = family.schedule.time_at(1 - latents.alpha(gamma)).float()
    return Corrupted(
        noisy,
        tokens.masked_fill(~open, -100),
        torch.where(open, times[:, None], 0.0),
        (-latents.slope(gamma) * slope).float(),
        mixture_ids=ids,
        mixture_weights=weights,
    )


def embed(
    embedding: nn.Module,
    input_ids: torch.Tensor | None,
    mixture_ids: torch.Tensor | None,
    mixture_weights: torch.Tensor | None,
) -> torch.Tensor:
    """Embeddings (B, L, H) of tokens (B, L), or, where these are given, the means of those of `mixture_ids` (B, L, K) under
    `mixture_weights` (B, L, K); ValueError for shapes that do not fit."""
    if mixture_ids is None and mixture_weights is None:
        embedded: torch.Tensor = embedding(input_ids)
        return embedded
    shapes = [None if x is None else tuple(x.shape) for x in (mixture_ids, mixture_weights)]
    if mixture_ids is None or mixture_weights is None or shapes[0] != shapes[1] or mixture_ids.dim() != 3:
        raise ValueError(
            f"mixture_ids of shape {shapes[0]} and mixture_weights of shape {shapes[1]} must both be (B, L, K)"
        )
    if input_ids is not None and input_ids.shape != mixture_ids.shape[:2]:
        raise ValueError(f"mixture_ids of shape {shapes[0]} do not fit input_ids of shape {tuple(input_ids.shape)}")
    # One after another: all K at once are K times the memory of a layer's input.
    total = torch.zeros((), device=mixture_ids.device)
    for j in range(mixture_ids.shape[2]):
        embedded = embedding(mixture_ids[..., j])
        total = total + mixture_weights[..., j, None].to(embedded.dtype) * embedded
    return total
