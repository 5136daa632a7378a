"""Attention of a trunk whose weights come from a model that differs from Llama in details: Qwen2's biases, Qwen3's norms; and how
flex attention runs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention


class NormedAttention(LlamaAttention):
    """Llama's attention with an RMSNorm over each head of the queries and of the keys, before they are rotated: Qwen3's."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.sliding_window = None  # Qwen3's forward hands it on

    forward = Qwen3Attention.forward  # type: ignore[assignment]  # its arguments have no defaults


def fit_attention(layer: Any, number: int, config: Any) -> None:
    """Give a `LlamaDecoderLayer`, the `number`-th from 0, the norms and biases of `qk_norm` and `attention_output_bias`; without them it
    stays as it is."""
    if config.qk_norm:
        layer.self_attn = NormedAttention(config, number)
    bias = config.attention_output_bias
    old = layer.self_attn.o_proj
    if bias is not None and bias != (old.bias is not None):
        layer.self_attn.o_proj = nn.Linear(old.in_features, old.out_features, bias=bias)


def flex_stance(config: Any, device: torch.device) -> AbstractContextManager[Any]:
    """The context to run attention in. On a CPU it turns off the compiler for flex attention.

    The kernel that torch 2.13 compiles for a CPU returns wrong numbers for heads of 8 and 16 values (with AVX2, in about one of ten calls)
    and fails to build if the length of the rows changes.

    Raises:
        ValueError: flex attention on a CPU in a model that is being compiled.
    """
    if config._attn_implementation != "flex_attention" or device.type != "cpu":
        return nullcontext()
    if torch.compiler.is_compiling():
        raise ValueError(
            "attn_implementation='flex_attention' in a compiled model on a CPU: torch can compile wrong code for it; use 'sdpa'"
        )
    return torch.compiler.set_stance("force_eager")
