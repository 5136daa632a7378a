"""The last layer of a trunk at some positions only: nothing reads its output anywhere else."""

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, eager_attention_forward, rotate_half

_BACKENDS = ("sdpa", "eager")  # flash and flex attention take other masks


def can_select(layer, **kwargs) -> bool:
    """Whether `last_layer_at` can stand in for the whole layer: a known backend, and nothing that looks inside it or is
    wrapped around it (hooks, FSDP, checkpointing, dropout, a compiler, which wants one shape)."""
    config = layer.self_attn.config
    wrapped = type(layer) is not LlamaDecoderLayer or layer._forward_hooks or layer._forward_pre_hooks
    if wrapped or torch.compiler.is_compiling():
        return False
    if layer.training and (config.attention_dropout or getattr(layer, "gradient_checkpointing", False)):
        return False
    wanted = kwargs.get("output_attentions") or config.output_attentions or kwargs.get("output_hidden_states")
    return config._attn_implementation in _BACKENDS and not wanted and not config.output_hidden_states


def last_layer_at(layer, hidden_states, positions, attention_mask, position_embeddings) -> torch.Tensor:
    """A Llama layer's output (N, H) at the N True `positions` (B, L), in row-major order.

    Keys and values of all positions are needed; queries, the output projection and the MLP of the N alone. Equal to the
    whole layer up to rounding.

    Args:
        hidden_states: (B, L, H). attention_mask: None or (B, 1, L, L) as the backend takes it.
        position_embeddings: cos and sin, each (B or 1, L, head_dim).
    """
    attention = layer.self_attn
    width = max(1, int(positions.sum(-1).max()))  # attention over no queries at all is refused
    # Each row's positions from left to right, filled up with others; `real` says which are no filling.
    index = (~positions).long().argsort(dim=-1, stable=True)[:, :width]
    real = positions.gather(1, index)

    def pick(x):
        return x.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    def heads(x):
        return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    normed = layer.input_layernorm(hidden_states)
    cos, sin = position_embeddings
    query = _rotate(heads(attention.q_proj(pick(normed))), pick(cos), pick(sin))
    key = _rotate(heads(attention.k_proj(normed)), cos, sin)
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
