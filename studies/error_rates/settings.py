"""The settings of the study of error rates; imports nothing heavy, as the help reads them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from arche_mdlm.studies.engine.settings import check_least

LANGUAGES = ("ngram", "hmm")
LEFT_OUT = ("arche",)  # samplers that change the model's distribution by a penalty of repetition


@dataclass(frozen=True)
class ErrorRatesSettings:
    """The settings of `arche-mdlm study error-rates`."""

    languages: tuple[str, ...] = LANGUAGES
    lengths: tuple[int, ...] = (32, 64, 128, 256)
    samplers: tuple[str, ...] = ()  # of the oracle; empty: all there are but those LEFT_OUT
    num_samples: int = 1000  # texts of the oracle, a sampler and number of steps
    smoothing: float = 0.01
    language_seed: int = 0
    order: int = 2  # of the n-gram language: how many tokens the next one depends on
    ngram_vocab_size: int = 8
    hmm_states: int = 8
    hmm_vocab_size: int = 16
    trained_languages: tuple[str, ...] = ("ngram",)
    trained_samplers: tuple[str, ...] = ("ancestral", "entropy")
    seeds: tuple[int, ...] = (0, 1, 2)
    positions: int = 20_000_000  # of training, a model
    trained_samples: int = 216  # texts of a trained model
    batch_positions: int = 2048  # of a step of training
    changes: tuple[str, ...] = ()  # KEY=VALUE of the preset
    oracle_batch_size: int = 1000
    batch_size: int = 72  # of texts of a trained model

    def __post_init__(self) -> None:
        for name, allowed in (("languages", LANGUAGES), ("trained_languages", self.languages)):
            different(name, values := getattr(self, name), name == "trained_languages")
            if set(values) - set(allowed):
                raise ValueError(f"{name}={list(values)} must be among {', '.join(allowed)}")
        different("lengths", self.lengths)
        if min(self.lengths) < 2:
            raise ValueError(f"lengths={list(self.lengths)} must be at least 2 tokens")
        different("samplers", self.samplers, True)
        different("trained_samplers", self.trained_samplers)
        different("seeds", self.seeds, not self.trained_languages)
        if not 0 < self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing} must be above 0 and below 1")
        least = {"num_samples": 2, "trained_samples": 2, "order": 1, "ngram_vocab_size": 4, "hmm_states": 2,
                 "hmm_vocab_size": 4, "positions": 1, "batch_positions": 1, "oracle_batch_size": 1, "batch_size": 1}  # fmt: skip
        check_least(self, least)


def different(name: str, values: Sequence, may_be_empty: bool = False) -> None:
    """ValueError for values that repeat, or for none."""
    if (not values and not may_be_empty) or len(set(values)) < len(values):
        raise ValueError(f"{name}={list(values)} must be different ones, and at least one")


BY_CHANCE = (
    "ancestral",
    "remdm",
)  # how many positions they fill at a step is drawn, so more steps than tokens are of use
MOST_STEPS = 256


def step_grid(length: int, sampler: str) -> list[int]:
    """Numbers of steps: 1, 2, 4, ... and one step a token, which is the most for samplers that fill a given number a step."""
    powers = [2**power for power in range(math.ceil(math.log2(length)))]
    beyond = [2**power for power in range(1, 10) if length < 2**power <= MOST_STEPS] if sampler in BY_CHANCE else []
    return [*powers, length, *beyond]
