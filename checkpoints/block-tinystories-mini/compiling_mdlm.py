"""`torch.compile`, a layer at a time: all layers of a trunk share what is compiled for one of them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

# There are few lengths of the canvas and sizes of the last layer (`length_multiple`, `label_positions`); each takes one graph.
_MOST_GRAPHS = 64


def compile_layers(model: PreTrainedModel, **options: Any) -> None:
    """Compile each layer of `model`'s trunk in place; head and loss stay as they are (`head_loss`).

    MDLM's canvases have few lengths and get static shapes; AR's rows have any length, and one graph for all.

    A whole trunk takes a compiler minutes for each shape, a layer seconds (PyTorch's "regional compilation").

    Args:
        options: `mode` and others of `torch.compile`.

    Raises:
        ValueError: for a model whose trunk lacks a list of layers, or if PyTorch's compiler does not find a C++ compiler.
    """
    layers = repeated_layers(model)
    if options.get("backend", "inductor") == "inductor" and not can_compile(model.device):
        raise ValueError(
            "torch.compile on a CPU needs a C++ compiler: install g++ or clang++, or set the variable CXX to a compiler"
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    for layer in layers:
        layer.compile(dynamic=model.config.model_type != "mdlm", **options)


# What was compiled for each model, by options: a second call with the same options compiles nothing.
_compiled: WeakKeyDictionary[PreTrainedModel, dict[str, list[Any]]] = WeakKeyDictionary()


@contextmanager
def compiled_layers(model: PreTrainedModel, **options: Any) -> Iterator[None]:
    """`compile_layers` for the time of a with block; layers that are compiled already stay as they are."""
    if is_compiled(model):
        yield
        return
    layers, known = repeated_layers(model), _compiled.setdefault(model, {})
    key = repr(sorted(options.items()))
    try:
        if key not in known:
            compile_layers(model, **options)
            known[key] = [layer._compiled_call_impl for layer in layers]
        for layer, call in zip(layers, known[key], strict=True):
            layer._compiled_call_impl = call
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def can_compile(device: torch.device) -> bool:
    """Whether PyTorch's compiler can run: on a CPU it needs a C++ compiler, on a GPU Triton."""
    return device.type != "cpu" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")))


def repeated_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The longest list of modules of one type in the trunk: its layers."""
    lists = _lists_of_layers(model)
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers to compile")
    return max(lists, key=len)


def _lists_of_layers(model: PreTrainedModel) -> list[nn.ModuleList]:
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    return [module for module in lists if len({type(layer) for layer in module}) == 1]


def is_compiled(model: PreTrainedModel) -> bool:
    """Whether a layer of the model's trunk is compiled."""
    return any(layer._compiled_call_impl is not None for layers in _lists_of_layers(model) for layer in layers)
