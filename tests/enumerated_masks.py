"""A tiny model of each family with random weights, and the NELBO of masked noise over all masks."""

import itertools
import math

import torch
from esoteric_model import build as build_esoteric
from torch.nn import functional as F

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion

BOS, PAD, MASK = 3, 4, 5  # tokens 0 to 2
ROW = torch.tensor([BOS, 0, 2, 1])
LENGTH = len(ROW) - 1


def tiny(diffusion: str = "masked", **changes) -> MDLMForMaskedDiffusion:
    if diffusion == "eso":
        return build_esoteric(0.5)
    torch.manual_seed(0)
    told = {"time_conditioning": "log_snr"} if diffusion.startswith("uniform") else {}
    block = {"attention_block_length": 2} if diffusion.endswith("block") else {}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MDLMConfig(vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, pad_token_id=PAD, max_position_embeddings=16,
                        initializer_range=0.6, diffusion=diffusion, **sizes, **told, **block, **changes)  # fmt: skip
    return MDLMForMaskedDiffusion(config).eval()


def of_all_masks(model, row: torch.Tensor, own: list[int]) -> float:
    """The NELBO of the positions `own`, the others being given, over all sets of masks: a set of k of n has the weight
    (k - 1)! (n - k)! / n!, the integral of t^(k - 1) (1 - t)^(n - k)."""
    total, count = 0.0, len(own)
    for k in range(1, count + 1):
        for masked in itertools.combinations(own, k):
            canvas, where = row.clone(), list(masked)
            canvas[where] = MASK
            with torch.no_grad():
                logits = model(canvas[None]).logits[0, where]
            nats = float(F.cross_entropy(logits, row[where], reduction="sum"))
            total += nats * math.factorial(k - 1) * math.factorial(count - k) / math.factorial(count)
    return total


def of_blocks(model, row: torch.Tensor, size: int, given: int = 1) -> float:
    """Each block's NELBO on a row that ends with it."""
    ends = range(size, len(row) + size, size)
    blocks = [(row[:end], [place for place in range(end - size, min(end, len(row))) if place >= given]) for end in ends]
    return sum(of_all_masks(model, start, own) for start, own in blocks)
