"""The embedding of the time, or of the noise level, for a model that is told it."""

import math
from collections.abc import Collection

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_mdlm import MDLMConfig
from .precision_mdlm import refined
from .schedule_mdlm import get_schedule


class TimeEmbedding(nn.Module):
    """silu(Linear(sinusoid(t))), the arche paper's conditioning (t in [0, 1], unscaled): (...) -> (..., hidden_size)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.num_frequencies = hidden_size // 2
        self.proj = nn.Linear(hidden_size, hidden_size, bias=True)

    def forward(self, timesteps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`dtype`: of the embeddings that the result is added to."""
        frequencies = torch.exp(
            -math.log(10_000) * torch.arange(self.num_frequencies, device=timesteps.device) / self.num_frequencies
        )
        angles = timesteps.float()[..., None] * frequencies
        sinusoid = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return F.silu(self.proj(sinusoid.to(dtype)))


class NoiseLevelEmbedding(nn.Module):
    """Linear(silu(Linear(sinusoid(log SNR)))): (B,) or (B, L) noise levels -> (..., hidden_size).

    log SNR = log(alpha / (1 - alpha)), clipped to -12 and 12: a clean position is at 12. The waves of the sinusoid are 1.5 to
    150 units long.
    """

    largest = 12.0

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.num_frequencies = hidden_size // 2
        self.inner = nn.Linear(2 * self.num_frequencies, hidden_size, bias=True)
        self.outer = nn.Linear(hidden_size, hidden_size, bias=True)

    def forward(self, rates: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`rates`: 1 - alpha; `dtype`: of the embeddings that the result is added to."""
        level = -torch.logit(refined(rates), eps=1e-9).clamp(-self.largest, self.largest).float()
        share = torch.arange(self.num_frequencies, device=rates.device) / max(1, self.num_frequencies - 1)
        angles = level[..., None] * (2 * math.pi / 1.5) * torch.exp(-math.log(100) * share)
        return self.outer(F.silu(self.inner(torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype))))


def make_embedding(config: MDLMConfig) -> nn.Module:
    """The embedding that `config.time_conditioning` names."""
    kind = NoiseLevelEmbedding if config.time_conditioning == "log_snr" else TimeEmbedding
    return kind(config.hidden_size)


def embed_times(
    embedding: nn.Module, config: MDLMConfig, timesteps: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """What is added to token embeddings (B, L, hidden_size) of a type: (B, 1 or L, hidden_size), for times (B,) or (B, L).

    ValueError if they are missing.
    """
    if timesteps is None:
        raise ValueError(
            f"timesteps=None, but this model has time_conditioning={config.time_conditioning!r}: give t of shape (B,) or (B, L)"
        )
    noise_level = config.time_conditioning == "log_snr"
    told = get_schedule(config.noise_schedule).mask_rate(timesteps) if noise_level else timesteps
    embedded = embedding(told, dtype)
    return embedded[:, None] if timesteps.dim() == 1 else embedded


def check_embedding(config: MDLMConfig, missing_keys: Collection[str]) -> None:
    """ValueError where a checkpoint lacks (`missing_keys`) the embedding that its config asks for: a random one says nothing."""
    missing = sorted(name for name in missing_keys if "time_embedding." in name)
    if missing:
        raise ValueError(
            f"the checkpoint has time_conditioning={config.time_conditioning!r} but not its weights, {', '.join(missing)}: load it with "
            "the time_conditioning that it was trained with, or make a new start of it with arche-mdlm convert"
        )
