"""Held-out stories, the reference that all models are compared with, and their committed figures (`tools/references.py`).

A set of n stories is one draw of many. So the reference row is the mean over draws, with the spread of draws in brackets, and
a model differs from real stories only where its own interval and that spread lie apart.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from arche_mdlm.metrics.diversity import diversity_of_draws
from arche_mdlm.metrics.judge import unigram_entropy
from arche_mdlm.training.data.sources import open_source

REFERENCE_FIGURES = Path(__file__).parents[3] / "metrics" / "data" / "tinystories_references.json"
SPREAD_NOTE = (
    "means over 1,000 draws of as many stories (Self-BLEU: 200 draws), in brackets where 95 % of the draws lie, as the "
    "stories of one draw are a sample too"
)


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
        raise ValueError(f"there are {len(texts)} held-out stories that fit, but {number} are needed")
    chosen = np.random.default_rng([seed, 3]).choice(len(texts), number, replace=False)
    return [texts[i] for i in sorted(chosen)]


def reference_figures(stories: list[str], number: int, seed: int, tokenizer: str = "words") -> dict[str, Any]:
    """Diversity of sets of `number` stories out of all that qualify: `NAME` and `NAME_ci`, as `diversity_of_draws`.

    `tokenizer`: "words" or "characters". ValueError where there are fewer stories.
    """
    found = diversity_of_draws(stories, number, seed=seed, tokenizer=tokenizer)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def reference_entropy(stories: list[str], number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """`unigram_entropy` of the pool in nats, and `unigram_entropy_ci`, where the means of 95 % of sets of `number` stories lie."""
    values = unigram_entropy(stories, tokenizer).per_text
    mean, half = _mean_and_half(values, number)
    return {"unigram_entropy": mean, "unigram_entropy_ci": [max(0.0, mean - half), mean + half]}


def _mean_and_half(values: Sequence[float], number: int) -> tuple[float, float]:
    """Mean over a pool, and half the width of where means of `number` fresh values lie; one value has no width."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values)), 1.96 * deviation / math.sqrt(number)


def fingerprint(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def committed_figures(number: int) -> dict | None:
    """`source`, `sha256` and `figures` of so many held-out stories; None for a number that is not committed."""
    committed = _committed()
    figures = committed.get("figures", {}).get(str(number))
    return figures and {"source": committed["source"], "sha256": committed["sha256"], "figures": figures}


def committed_numbers() -> list[int]:
    """Of how many held-out stories figures are committed."""
    return sorted(map(int, _committed().get("figures", {})))


def committed_first_tokens(vocabulary: str) -> dict | None:
    """`ids` of the first tokens of real stories, one a story, and `what` they are of; None for another tokenizer's vocabulary."""
    found = _committed().get("first_tokens")
    if not found or found["vocabulary"] != vocabulary:
        return None
    ids = [int(token) for token, count in found["counts"].items() for _ in range(count)]
    return {"ids": ids, "what": f"{len(ids):,} {found['what']}"}


def committed_bigram(vocabulary: str) -> dict | None:
    """`nats_per_token` of an interpolated bigram on real held-out stories, and `what` it is; None for another vocabulary."""
    committed = _committed()
    same = committed.get("first_tokens", {}).get("vocabulary") == vocabulary
    return committed.get("bigram") if same else None


def file_hash(path: Path) -> str | None:
    """sha256 of a file's content; None for what is not a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _committed() -> dict:
    return json.loads(REFERENCE_FIGURES.read_text(encoding="utf-8")) if REFERENCE_FIGURES.is_file() else {}
