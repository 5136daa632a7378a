"""The device that a command takes where none is named."""

# In this order.
ACCELERATORS = ("cuda", "mps", "xpu")


def default_device() -> str:
    """The first of CUDA, Apple's mps and Intel's xpu that torch has here, else the CPU."""
    return next((name for name in ACCELERATORS if _is_available(name)), "cpu")


def _is_available(name: str) -> bool:
    import torch

    backend = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}[name]
    return bool(backend.is_available())
