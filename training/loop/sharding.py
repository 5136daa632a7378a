"""FSDP2: weights, gradients and optimiser states sharded over the processes, and gathered for a checkpoint.

Accelerate's launch file says that and how; the cutting is done here. Each layer is a unit, gathered just before it
runs, and all the rest (embeddings, final norm, head) is the root's, gathered for the whole of forward, in which the
chunked loss takes the head's weight as it is. Accelerate would do it otherwise: with bf16 it also sums gradients up in
bf16 and rounds the loss to it, and on a CPU it falls back to DDP, where nothing of this could be tested.
"""

import os
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from arche_mdlm.configuration.settings import TrainingSettings


def sharding_plugin(accelerator: Accelerator, settings: TrainingSettings) -> FullyShardedDataParallelPlugin | None:
    """The launch file's FSDP2 settings; None for one process, or without FSDP2.

    Read from the environment that `accelerate launch` makes, since on a CPU Accelerate leaves it aside. ValueError for
    what does not run, or was never tried, under FSDP2.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true" or accelerator.num_processes == 1:
        return None
    version, offload = os.environ.get("FSDP_VERSION", "1"), os.environ.get("FSDP_OFFLOAD_PARAMS", "false")
    if version != "2":
        raise ValueError(f"fsdp_version={version} in the launch file is not supported: give fsdp_version: 2")
    if offload.lower() != "false":
        raise ValueError(f"fsdp_offload_params={offload} in the launch file is not supported: give false")
    if os.environ.get("FSDP_AUTO_WRAP_POLICY") == "SIZE_BASED_WRAP":
        raise ValueError(
            "fsdp_auto_wrap_policy=SIZE_BASED_WRAP in the launch file is not supported: the units are the layers"
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ValueError(
            f"mixed_precision={accelerator.mixed_precision!r} is not supported under FSDP2: give no or bf16"
        )
    if settings.compile:
        raise ValueError("training.compile=true is not supported under FSDP2: give false, or launch with DDP")
    return FullyShardedDataParallelPlugin()


def shard(model: PreTrainedModel, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Cut a model in place, also its tied weights; an optimiser has to be built afterwards.

    With bf16, layers are gathered in bf16, as autocast would cast them, and everything else in float32.
    Gradients are summed up in float32, and hidden states between layers stay in float32: the numbers are those of one
    process, up to rounding.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _broadcast(model, accelerator.device)
    if plugin.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    half = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for layer in [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or [])]:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=plugin.reshard_after_forward)
    fully_shard(model, mesh=mesh)


def _broadcast(model: torch.nn.Module, device: torch.device) -> None:
    """The main process's weights everywhere, as DDP does it: each process then keeps its part of its own copy."""
    for tensor in [*model.parameters(), *model.buffers()]:
        moved = tensor.detach().to(device)
        torch.distributed.broadcast(moved, src=0)
        tensor.detach().copy_(moved)


def full_state(module: torch.nn.Module) -> dict[str, Any]:
    """`state_dict` of a model that may be sharded: then in host memory, of the main process; others get nothing.

    A collective: every process has to call it. Tied weights stay one tensor.
    """
    state = get_model_state_dict(module, options=_options(module))
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in state:  # gathered once a name
            state[name] = state[first.setdefault(id(parameter), name)]
    return state


def full_optimizer_state(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's states and settings by the names of `module`'s parameters; a collective, as `full_state`."""
    return get_optimizer_state_dict(module, _bare(optimizer), options=_options(module))


def load_full_state(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Load what `full_state` gave into a module that may be sharded; a collective, each process with the whole of it."""
    set_model_state_dict(module, state, options=_options(module))


def load_full_optimizer_state(module: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `full_optimizer_state` gave into an optimiser whose parameters may be sharded; a collective."""
    set_optimizer_state_dict(module, _bare(optimizer), state, options=_options(module))


def _options(module: torch.nn.Module) -> StateDictOptions:
    """Whole tensors where they are sharded; otherwise the module's own, without a copy."""
    sharded = any(isinstance(parameter, DTensor) for parameter in module.parameters())
    return StateDictOptions(full_state_dict=sharded, cpu_offload=sharded)


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Without Accelerate's wrapper, whose step waits for the end of an accumulation."""
    return getattr(optimizer, "optimizer", optimizer)


def reshard(module: torch.nn.Module) -> None:
    """Free the parameters gathered by an evaluation; otherwise averages would use a stale copy."""
    if hasattr(module, "reshard"):
        cast(Any, module).reshard()


def whole_norm(norm: torch.Tensor) -> torch.Tensor:
    """A gradient norm as a plain tensor; under FSDP2 it comes in parts."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
