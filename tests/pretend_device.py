"""A pretended device without float64, as Apple's is, on a machine that has none: its tensors compute on the CPU, but none of them may
be float64, and what is on the CPU does not mix with them. It goes by the name of
the one device that torch does not look for."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from arche_mdlm import precision_mdlm

NAME = "meta"
aten = torch.ops.aten
# What may take tensors of both: copies, and indices on the CPU.
MIXING = {aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
          aten._index_put_impl_.default}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor of the device; `inner` has its numbers."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the device has no float64, but a tensor of shape {tuple(inner.shape)} is made there")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=NAME,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """Run an operation on the CPU; its results are on the device if what it reads is, or if it is told so."""
    flat = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    ours = [one for one in flat if isinstance(one, OnDevice)]
    told = kwargs.get("device")
    told = None if told is None else torch.device(told).type
    if ours and func not in MIXING:
        strangers = [one for one in flat if not isinstance(one, OnDevice) and one.dim() > 0]
        assert not strangers, f"{func} mixes the device with the CPU: {[tuple(one.shape) for one in strangers]}"
    on_device = told == NAME or (bool(ours) and told is None)
    if func is aten.copy_.default:  # in place: where it is written
        on_device = isinstance(args[0], OnDevice)
    if told == NAME:
        kwargs = {**kwargs, "device": "cpu"}
    owners = {id(one.inner): one for one in ours}
    plain = tree_map_only(OnDevice, lambda one: one.inner, (args, kwargs))
    out = func(*plain[0], **plain[1])
    if not on_device:
        return out

    def wrap(one):
        return owners.get(id(one)) if id(one) in owners else OnDevice(one) if isinstance(one, torch.Tensor) else one

    return tree_map(wrap, out)


class _Made(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class _Told(TorchFunctionMode):
    """Calls that name the device: torch would look for it before anything is dispatched. They run on the CPU, and what they make is
    moved."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].inner.tolist()
        device = kwargs.get("device")
        if device is None or torch.device(device).type != NAME:
            return func(*args, **kwargs)
        if args and isinstance(args[0], OnDevice):  # as_tensor, new_zeros and their like
            return func(*args, **{name: value for name, value in kwargs.items() if name != "device"})
        return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))

    @staticmethod
    def _to(values, *args, **kwargs):
        said = [*args, *kwargs.values()]
        devices = [one for one in said if isinstance(one, (str, torch.device))]
        devices += [one.device for one in said if isinstance(one, torch.Tensor)]
        if not devices or torch.device(devices[0]).type != NAME:
            return torch.Tensor.to(values, *args, **kwargs)
        values = values if values.device.type == NAME else OnDevice(values.detach())
        dtypes = [one for one in said if isinstance(one, torch.dtype)]
        return torch.Tensor.to(values, dtypes[0]) if dtypes else values


@contextmanager
def pretended():
    """While it lasts, there is the device."""
    precision_mdlm.WITHOUT_FLOAT64.add(NAME)
    try:
        with _Made(), _Told():
            yield torch.device(NAME)
    finally:
        precision_mdlm.WITHOUT_FLOAT64.discard(NAME)
