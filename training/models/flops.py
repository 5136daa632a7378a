"""Floating-point operations of a training step, counted from the shapes, and the share of a GPU's peak that they make.

Counted are the matrix products, two operations a multiply-add, three times for forward and backward (PaLM, Chowdhery et al.
2022, arXiv 2204.02311, appendix B). The head counts at supervised positions only, and so does most of MDLM's last layer, because
only there they run: skipped work does not count as utilisation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from arche_mdlm.esoteric_mdlm import Esoteric
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.last_layer_mdlm import part_at_positions
from arche_mdlm.order_mdlm import Blocks
from arche_mdlm.training.models.arms import arm_of

# Dense bf16 matrix products a second, from the makers' data sheets.
_PEAKS = {"H200": 989.4e12, "H100 PCIe": 756e12, "H100": 989.4e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


@dataclass(frozen=True)
class StepFlops:
    """Of the matrix products in a model's step, forward and backward.

    Args:
        config: of MDLM, Llama or GPT-2.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    head_rows: int  # of the output layer
    mlp_products: int  # 3 where gated
    seen: Callable[[int], float]  # the share of the pairs of so many inputs in which one sees the other
    at_labels: str  # what of the last layer runs at supervised positions only: "nothing", "mlp" or "most"

    @classmethod
    def of(cls, config: Any, at_labels: str = "nothing") -> "StepFlops":
        gated = config.model_type != "gpt2"
        hidden, heads = config.hidden_size, config.num_attention_heads
        return cls(
            hidden=hidden,
            inner=config.intermediate_size if gated else (config.n_inner or 4 * hidden),
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            head_rows=getattr(config, "output_vocab_size", None) or config.vocab_size,
            mlp_products=3 if gated else 2,
            seen=_seen(config),
            at_labels=at_labels,
        )

    def count(self, rows: int, length: int, supervised: int, causal_halving: bool = True) -> int:
        """Of a batch (rows, length) with so many supervised positions in all.

        With `causal_halving` attention counts for the pairs that are seen.
        """
        tokens = rows * length
        full = self._layer(tokens, tokens, length)
        asked = {"nothing": (tokens, tokens), "mlp": (tokens, supervised), "most": (supervised, supervised)}
        last = self._layer(*asked[self.at_labels], length, tokens)
        share = self.seen(length) if causal_halving else 1.0
        total = 0.0
        for layer, times in ((full, self.layers - 1), (last, 1)):
            total += times * (layer["linear"] + share * layer["attention"])
        return round(3 * (total + 2 * supervised * self.hidden * self.head_rows))

    def _layer(self, queries: int, outputs: int, length: int, tokens: int | None = None) -> dict[str, float]:
        """Forward, with keys and values at `tokens` positions (default: as many), queries and output projection at
        `queries`, the MLP at `outputs`."""
        tokens = queries if tokens is None else tokens
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        linear = 2 * tokens * self.hidden * 2 * narrow
        linear += 2 * queries * 2 * self.hidden * wide + 2 * outputs * self.mlp_products * self.hidden * self.inner
        return {"linear": linear, "attention": 4 * queries * length * wide}


def _seen(config: Any) -> Callable[[int], float]:
    """Of N inputs, of a row of L: (N + 1) / 2N where they are read one after another, L^2 + L L' of the (2 L)^2 of a doubled row in
    blocks of L'; Eso-LM as written in its order."""
    if config.model_type != "mdlm":
        return _one_after_another if arm_of(config).causal else _all
    order = family_of(config).order
    if isinstance(order, Blocks):
        return partial(_doubled, order.block_length)
    if not isinstance(order, Esoteric):
        return _all
    if order.alpha_0 in (0, 1):
        return _one_after_another if order.alpha_0 == 1 else partial(_doubled, 1)
    return _two_passes


def _all(inputs: int) -> float:
    return 1.0


def _one_after_another(inputs: int) -> float:
    return (inputs + 1) / (2 * inputs)


def _doubled(block: int, inputs: int) -> float:
    return (1 + 2 * block / inputs) / 4


def _two_passes(inputs: int) -> float:
    """Half of the rows read once, L (L + 1) / 2 pairs and 2 L of the half that is not used, and half of them doubled."""
    length = inputs / 2
    return ((length * (length + 1) / 2 + 2 * length) / inputs**2 + _doubled(1, inputs)) / 2


def part_at_labels(model: Any, indexed: bool = False) -> str:
    """The part of the last layer that a training step runs only at supervised positions: "nothing", "mlp" or "most".

    Args:
        indexed: whether it gets them as indices (`label_positions`).
    """
    if not arm_of(model).trims_last_layer:
        return "nothing"
    layer = model.model.layers[-1]
    return "nothing" if getattr(layer, "gradient_checkpointing", False) else part_at_positions(layer, indexed)


def peak_flops(device: torch.device) -> float | None:
    """Of a known GPU, in bf16; None for any other device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAKS.items() if all(part in name for part in known.split())), None)
