"""Diversity metrics as an `evaluate` measurement, and as plain functions."""

from pathlib import Path

from .diversity import (
    Diversity,
    diversity,
    diversity_differences,
    diversity_of_draws,
    per_story_self_bleu,
)
from .words import unsplit_share

SCRIPT = str(Path(__file__).parent)  # for `evaluate.load(SCRIPT)`, from any folder

__all__ = [
    "SCRIPT",
    "Diversity",
    "diversity",
    "diversity_differences",
    "diversity_of_draws",
    "per_story_self_bleu",
    "unsplit_share",
]
