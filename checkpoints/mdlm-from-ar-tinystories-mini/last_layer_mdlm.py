"""The last layer of a trunk, run only at the positions whose output is used."""

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    eager_attention_forward,
    rotate_half,
)

from .attention_mdlm import NormedAttention

# What transformers calls the cache of a layer: `cache` from 5.24 on, `past_key_values` before, which goes in 5.40.
CACHE_ARGUMENT = "cache" if "cache" in signature(LlamaDecoderLayer.forward).parameters else "past_key_values"
_BACKENDS = ("sdpa", "eager")  # flash and flex attention take other masks


def last_layer(
    layer: nn.Module, hidden_states: torch.Tensor, positions: torch.Tensor | None, **inputs: Any
) -> torch.Tensor:
    """A layer's output (B, L, H), or (N, H) at N `positions`, by the shortest way that computes what the whole layer would.

    Args:
        hidden_states: (B, L, H), the layer's input.
        positions: None; (B, L) bool, whose True positions come in row-major order; or (N,) flat indices, in any order.
        **inputs: what the layer is called with.
    """
    if positions is None:
        return layer(hidden_states, **inputs)
    indexed = positions.dtype != torch.bool
    part = part_at_positions(layer, indexed, **inputs)
    if part == "mlp":
        return _mlp_at(layer, hidden_states, positions, **inputs)
    if part == "most":
        return _most_at(layer, hidden_states, positions, inputs["attention_mask"], inputs["position_embeddings"])
    states = layer(hidden_states, **inputs)
    return states.flatten(0, 1)[positions] if indexed else states[positions]


def part_at_positions(layer: nn.Module, indexed: bool, **inputs: Any) -> str:
    """What of a layer runs at the wanted positions alone: `"nothing"`, `"mlp"` or `"most"` of it.

    - `"mlp"`, for indices, whose number is known: nothing looks inside the layer or is wrapped around it (hooks,
      offloading, FSDP, checkpointing).
    - `"most"` (all but keys and values), for bools: besides, a known attention backend without dropout, without a cache, which
      wants the keys and values of the layer itself, and without a compiler, which wants one shape.
    """
    if type(layer) is not LlamaDecoderLayer or _is_hooked(layer):
        return "nothing"
    config = layer.self_attn.config
    checkpointed = layer.training and getattr(layer, "gradient_checkpointing", False)
    wanted = inputs.get("output_attentions") or config.output_attentions or inputs.get("output_hidden_states")
    if checkpointed or wanted or config.output_hidden_states:
        return "nothing"
    if indexed:
        return "mlp"
    looked_into = type(layer.self_attn) not in (LlamaAttention, NormedAttention) or _is_hooked(layer.self_attn)
    drops = layer.training and config.attention_dropout
    if inputs.get(CACHE_ARGUMENT) is not None or looked_into or drops or torch.compiler.is_compiling():
        return "nothing"
    return "most" if config._attn_implementation in _BACKENDS else "nothing"


def _is_hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its class says; its submodules are always called."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _mlp_at(layer: nn.Module, hidden_states: torch.Tensor, index: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """A Llama layer's output (N, H) at the flat positions `index` (N,) of `hidden_states` (B, L, H).

    Attention is that of the whole layer, in any backend; the MLP, two thirds of a layer, runs at the N alone. Nothing here
    depends on a value on the device: N is the length of a tensor that the caller made.
    """
    run = _compiled_mlp_at() if layer._compiled_call_impl is not None else _eager_mlp_at
    return run(layer, hidden_states, index, **kwargs)


def _eager_mlp_at(layer: Any, hidden_states: torch.Tensor, index: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    states = (hidden_states + attended).flatten(0, 1)[index]
    return states + layer.mlp(layer.post_attention_layernorm(states))


@cache
def _compiled_mlp_at() -> Callable[..., torch.Tensor]:
    return torch.compile(_eager_mlp_at, dynamic=False)


def _most_at(
    layer: Any,
    hidden_states: torch.Tensor,
    positions: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """A Llama layer's output (N, H) at the N True `positions` (B, L), in row-major order.

    Keys and values of all positions are needed; queries, the output projection and the MLP of the N alone. Equal to the
    whole layer up to rounding.

    Args:
        layer: a `LlamaDecoderLayer`.
        hidden_states: (B, L, H), the layer's input.
        positions: (B, L) bool.
        attention_mask: None or (B, 1, L, L) as the backend takes it.
        position_embeddings: cos and sin, each (B or 1, L, head_dim).
    """
    attention = layer.self_attn
    width = max(1, int(positions.sum(-1).max()))  # attention over no queries at all is refused
    # Each row's positions from left to right, padded with others; `real` is False at the padding.
    index = (~positions).long().argsort(dim=-1, stable=True)[:, :width]
    real = positions.gather(1, index)

    def pick(x: torch.Tensor) -> torch.Tensor:
        return x.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    normed = layer.input_layernorm(hidden_states)
    cos, sin = position_embeddings
    query, key = heads(attention.q_proj(pick(normed))), heads(attention.k_proj(normed))
    if isinstance(attention, NormedAttention):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = _rotate(query, pick(cos), pick(sin)), _rotate(key, cos, sin)
    value = heads(attention.v_proj(normed))
    if attention_mask is not None:
        rows = attention_mask.expand(len(index), -1, -1, -1)
        attention_mask = rows.gather(2, index[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[-1]))
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(layer.self_attn.config._attn_implementation, eager_attention_forward)
    attended, _ = attend(attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling)
    attended = attended.flatten(2)[real]
    states = pick(hidden_states)[real] + attention.o_proj(attended)
    return states + layer.mlp(layer.post_attention_layernorm(states))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (B, heads, L, head_dim), as Llama's."""
    return x * cos[:, None] + rotate_half(x) * sin[:, None]
