"""How long a job may take, before anything of its kind has been measured: floating-point operations over a rate."""

import torch

from arche_mdlm.configuration.settings import Preset

RATES = {"cpu": 5e10, "cuda": 8e13}  # operations a second that small models reach, on one core and on one large GPU
_OVERHEAD = 15.0  # seconds: starting, loading


def parameters(preset: Preset) -> int:
    """About how many, of a Llama-type model with a tied head."""
    config = preset.model.config
    width, inner = config.get("hidden_size", 768), config.get("intermediate_size", 2048)
    layer = 4 * width * width + 3 * width * inner
    return config.get("num_hidden_layers", 12) * layer + config.get("vocab_size", 50_258) * width


def training_seconds(preset: Preset, device: str, steps: float | None = None) -> float:
    """Six operations a parameter and token; rows are taken to be full."""
    tokens = (steps or preset.training.max_steps) * preset.training.batch_size * preset.data.context_length
    return _OVERHEAD + 6 * parameters(preset) * tokens / RATES[device]


def forward_seconds(preset: Preset, device: str, rows: int) -> float:
    """Two operations a parameter and token, of `rows` forwards of a full context."""
    return _OVERHEAD + 2 * parameters(preset) * rows * preset.data.context_length / RATES[device]


def seconds_of(model: torch.nn.Module, device: str, tokens: float) -> float:
    """Two operations a parameter and token, of a model that is loaded already."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return 2 * size * tokens / RATES["cuda" if device.startswith("cuda") else "cpu"]
