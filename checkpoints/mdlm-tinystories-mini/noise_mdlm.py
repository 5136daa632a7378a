"""Random numbers that belong to a row and a position, so that a row's text depends on its own seed only."""

from dataclasses import dataclass

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: SplitMix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def draw_seeds(generator, num_rows: int) -> torch.Tensor:
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
        step: number of the denoising step.
    """

    seeds: torch.Tensor
    position_ids: torch.Tensor
    step: int = 0

    def uniform(self, purpose: int) -> torch.Tensor:
        """(B, L) float64 in [0, 1) with 53 random bits; `purpose` tells draws of one step apart."""
        counter = torch.full_like(self.seeds, 1 + 16 * self.step + purpose)
        stream = _mix(self.seeds + counter * _GOLDEN)
        bits = _mix(stream[:, None] + (self.position_ids + 1) * _GOLDEN)
        return _shift(bits, 11).to(torch.float64) * 2.0**-53

    def categorical(self, logits: torch.Tensor, where: torch.Tensor, purpose: int) -> torch.Tensor:
        """One token (N,) for each True position of `where` (B, L) from logits (N, V), by inverting the CDF in float64.

        Float32 noise would cut off the tail and so lower the temperature (Zheng et al. 2024, arXiv 2409.02908).
        """
        cdf = logits.to(torch.float64).softmax(-1).cumsum(-1)
        total = cdf[:, -1:]
        target = self.uniform(purpose)[where][:, None] * total
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(cdf, target, right=True)[:, 0]
