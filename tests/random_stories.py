"""Stories of random words, for studies of small trainings."""

import json
from pathlib import Path

import numpy as np

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "tree",
    "sun",
    "saw",
    "ran",
    "sat",
    "big",
    "red",
    "little",
    "and",
    "then",
    "home",
    "again",
    "happy",
]


def write_stories(folder: Path, number: int) -> Path:
    """A file of so many stories of 30 words, always the same."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 30)) + "." for _ in range(number)]
    file = folder / "stories.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file
