"""float64 where a device has it: Apple's (mps) has none, and some of Intel's (xpu) have none either."""

import torch

WITHOUT_FLOAT64 = {"mps"}  # types of devices


def has_float64(device: torch.device) -> bool:
    """Whether tensors of float64 can be on a device."""
    if device.type == "xpu":
        return bool(getattr(torch.xpu.get_device_properties(device), "has_fp64", True))
    return device.type not in WITHOUT_FLOAT64


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float64 if has_float64(device) else torch.float32


def refined(values: torch.Tensor) -> torch.Tensor:
    """The values in the finest type of their device."""
    return values.to(finest(values.device))


def moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on a device; float64 becomes float32 on devices without float64."""
    if values.dtype == torch.float64 and not has_float64(device):
        values = values.float()
    return values.to(device)


def summable(values: torch.Tensor) -> torch.Tensor:
    """The values in float64: on their device, or on the CPU if it has none."""
    return values.double() if has_float64(values.device) else values.cpu().double()
