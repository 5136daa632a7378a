"""Held-out stories, the reference that both arms are compared with, and their committed figures (`tools/references.py`)."""

import hashlib
import json
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from arche_mdlm.training.data.sources import open_source

REFERENCE_FIGURES = Path(__file__).parents[2] / "metrics" / "data" / "tinystories_references.json"


def fitting_stories(source: str, tokenizer: PreTrainedTokenizerBase, context_length: int) -> list[str]:
    """Stories of at most `context_length` tokens with BOS and EOS: longer ones neither arm was trained on or can write."""
    texts = list(open_source(source, split="train"))
    lengths = [
        len(ids) + 1 for ids in tokenizer(texts, verbose=False)["input_ids"]
    ]  # the tokenizer adds BOS, EOS is one more
    return [text for text, length in zip(texts, lengths, strict=True) if length <= context_length]


def draw(texts: list[str], number: int, seed: int) -> list[str]:
    """`number` of the texts, without replacement, in their order; ValueError when there are fewer."""
    if len(texts) < number:
        raise ValueError(
            f"there are {len(texts)} held-out stories that fit, fewer than {number}: compare equal numbers"
        )
    chosen = np.random.default_rng([seed, 3]).choice(len(texts), number, replace=False)
    return [texts[i] for i in sorted(chosen)]


def fingerprint(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def committed_figures(number: int) -> dict | None:
    """`source`, `sha256` and `figures` of so many held-out stories; None for a number that is not committed."""
    if not REFERENCE_FIGURES.is_file():
        return None
    committed = json.loads(REFERENCE_FIGURES.read_text(encoding="utf-8"))
    figures = committed["figures"].get(str(number))
    return figures and {"source": committed["source"], "sha256": committed["sha256"], "figures": figures}
