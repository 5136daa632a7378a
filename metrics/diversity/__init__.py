"""Diversity metrics as an `evaluate` measurement, and as plain functions."""

from .diversity import Diversity, diversity, diversity_differences, per_story_self_bleu, unsplit_share

__all__ = ["Diversity", "diversity", "diversity_differences", "per_story_self_bleu", "unsplit_share"]
