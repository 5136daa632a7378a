"""How long a job may take, before anything of its kind has been measured: floating-point operations over a rate."""

import time
from functools import lru_cache

import torch

from arche_mdlm.configuration.settings import Preset

_GPU_RATE = 8e13  # operations a second that small models reach on one large GPU
_SHARE = 0.4  # of a matrix product's speed on one CPU core, measured in the training of small models
_ROUNDS = 10
_OVERHEAD = 15.0  # seconds: starting, loading


@lru_cache
def operations_per_second(device: str) -> float:
    """The rate of a small model on `device`. Without CUDA it is 0.4 times the speed of a matrix product on one CPU
    thread, measured once per process in a tenth of a second."""
    if device.startswith("cuda"):
        return _GPU_RATE
    rows, weight = torch.randn(2048, 192), torch.randn(192, 512)
    threads, best = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)
    try:
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            torch.mm(rows, weight)
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return _SHARE * 2 * rows.shape[0] * weight.numel() / best


def parameters(preset: Preset) -> int:
    """About how many, of a Llama-type model with a tied head."""
    config = preset.model.config
    width, inner = config.get("hidden_size", 768), config.get("intermediate_size", 2048)
    layer = 4 * width * width + 3 * width * inner
    return config.get("num_hidden_layers", 12) * layer + config.get("vocab_size", 50_258) * width


def training_seconds(preset: Preset, device: str, steps: float | None = None) -> float:
    """Six operations a parameter and token; rows are taken to be full."""
    tokens = (steps or preset.training.max_steps) * preset.training.batch_size * preset.data.context_length
    return _OVERHEAD + 6 * parameters(preset) * tokens / operations_per_second(device)


def forward_seconds(preset: Preset, device: str, rows: int) -> float:
    """Two operations a parameter and token, of `rows` forwards of a full context."""
    return _OVERHEAD + 2 * parameters(preset) * rows * preset.data.context_length / operations_per_second(device)


def seconds_of(model: torch.nn.Module, device: str, tokens: float) -> float:
    """Two operations a parameter and token, of a model that is loaded already."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return 2 * size * tokens / operations_per_second(device)
