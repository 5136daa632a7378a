"""The embedding of the time t for a time-conditioned model."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    """silu(Linear(sinusoid(t))), the arche paper's conditioning (t in [0, 1], unscaled): (B,) -> (B, hidden_size)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.num_frequencies = hidden_size // 2
        self.proj = nn.Linear(hidden_size, hidden_size, bias=True)

    def forward(self, timesteps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`dtype`: of the embeddings that the result is added to."""
        frequencies = torch.exp(
            -math.log(10_000) * torch.arange(self.num_frequencies, device=timesteps.device) / self.num_frequencies
        )
        angles = timesteps.float()[:, None] * frequencies[None]
        sinusoid = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return F.silu(self.proj(sinusoid.to(dtype)))
