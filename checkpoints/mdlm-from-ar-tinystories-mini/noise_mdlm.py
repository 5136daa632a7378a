"""Random numbers that belong to a row and a position, so that a row's text depends only on its own seed."""

from dataclasses import dataclass

import torch

from .precision_mdlm import finest, refined

# What `generate` takes as its generator: none, one, or one a row.
Generators = torch.Generator | list[torch.Generator] | tuple[torch.Generator, ...] | None

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: SplitMix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_BLOCK = 256  # weights summed at once


def draw_seeds(generator: Generators, num_rows: int) -> torch.Tensor:
    """One int64 seed a row, (num_rows,), on the CPU.

    `generator`: None (torch's global one), one `torch.Generator` (one seed is drawn from it for each row, in row
    order), or a list of `num_rows` (one seed from each). Raises ValueError for a list of another length.
    """
    if isinstance(generator, (list, tuple)):
        if len(generator) != num_rows:
            raise ValueError(
                f"generator is a list of {len(generator)}, but there are {num_rows} rows (num_return_sequences counted)"
            )
        return torch.cat([draw_seeds(one, 1) for one in generator])
    device = "cpu" if generator is None else generator.device
    return torch.randint(0, 2**63 - 1, (num_rows,), generator=generator, device=device).cpu()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser (Steele et al. 2014) on int64, which wraps around as uint64 does."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; torch's `>>` on int64 keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@dataclass(frozen=True)
class RowNoise:
    """A stateless stream a row: the same (seed, step, purpose, position) gives the same number on every device.

    Args:
        seeds: (B,) int64.
        position_ids: (B, L), which padding does not shift.
        step: number of the denoising step, or numbers (K, 1): what is drawn then has a dimension K in front.
    """

    seeds: torch.Tensor
    position_ids: torch.Tensor
    step: int | torch.Tensor = 0

    def uniform(self, purpose: int) -> torch.Tensor:
        """(B, L) float64 in [0, 1) with 53 random bits; `purpose` tells draws of one step apart. On a device without float64 it is
        float32, of the first 24 of these bits."""
        counter = torch.as_tensor(1 + 16 * self.step + purpose, device=self.seeds.device)
        stream = _mix(self.seeds + counter * _GOLDEN)
        bits = _mix(stream[..., None] + (self.position_ids + 1) * _GOLDEN)
        if finest(bits.device) == torch.float32:
            return _shift(bits, 40).to(torch.float32) * 2.0**-24
        return _shift(bits, 11).to(torch.float64) * 2.0**-53

    def branch(self, number: int) -> "RowNoise":
        """Streams of their own, for what a step draws several times."""
        return RowNoise(_mix(_mix(self.seeds) + number), self.position_ids, self.step)

    def at_step(self, step: int) -> "RowNoise":
        """The same streams at another step; step 0 gives numbers that stay the same throughout a generation."""
        return RowNoise(self.seeds, self.position_ids, step)


def block_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sums (N, ceil(V / 256)), float64, of the weights (N, V) in blocks of 256; the blocks' cells themselves if V is small."""
    width = weights.shape[-1]
    if width <= 2 * _BLOCK:
        return refined(weights)
    whole = width - width % _BLOCK
    sums = weights[:, :whole].unflatten(-1, (-1, _BLOCK)).sum(-1)
    if whole < width:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], dim=-1)
    return refined(sums)


def inverse_cdf(weights: torch.Tensor, uniform: torch.Tensor, sums: torch.Tensor | None = None) -> torch.Tensor:
    """Index (N,) of the weights (N, V) drawn by `uniform` (N,) in [0, 1), float64: no weight of zero is ever drawn.

    The weights are summed in blocks (`sums`, if they are there already), then only the block that holds the index is summed
    cell by cell. Float32 noise would cut off the tail and so lower the temperature (Zheng et al. 2024, arXiv 2409.02908):
    here the uniform number and every cumulated sum are float64, and the weights keep the model's precision.
    """
    width = weights.shape[-1]
    sums = block_sums(weights) if sums is None else sums
    cdf = sums.cumsum(-1)
    target = torch.minimum(uniform * cdf[:, -1], _below(cdf[:, -1]))
    block = _first_above(cdf, target)[:, None]
    if sums.shape[-1] == width:
        return block[:, 0]
    share = (target[:, None] - cdf.gather(1, block)) / sums.gather(1, block) + 1
    inner = refined(_cells(weights, block)).cumsum(-1)
    return block[:, 0] * _BLOCK + _first_above(inner, share[:, 0].clamp(min=0.0) * inner[:, -1])


def two_largest(weights: torch.Tensor) -> torch.Tensor:
    """The largest and the second of the weights (N, V), as (N, 2); `topk` would take several times as long."""
    width = weights.shape[-1]
    if width <= 2 * _BLOCK:
        return weights.topk(2).values
    whole = width - width % _BLOCK
    largest = weights[:, :whole].unflatten(-1, (-1, _BLOCK)).amax(-1)
    if whole < width:
        largest = torch.cat([largest, weights[:, whole:].amax(-1, keepdim=True)], dim=-1)
    values, blocks = largest.topk(2)
    inner = _cells(weights, blocks[:, :1]).topk(2).values
    return torch.stack([values[:, 0], torch.maximum(values[:, 1], inner[:, 1])], dim=-1)


def _cells(weights: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """The 256 cells of a block (N, 1) of each row, 0 behind the last."""
    cells = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    return weights.gather(1, cells.clamp(max=weights.shape[-1] - 1)).masked_fill(cells >= weights.shape[-1], 0.0)


def _first_above(cdf: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """First index (N,) at which cdf (N, V) is above target (N,), which is kept below the total."""
    target = torch.minimum(target, _below(cdf[:, -1]))
    return torch.searchsorted(cdf, target[:, None], right=True)[:, 0]


def _below(total: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(total, torch.zeros_like(total))
