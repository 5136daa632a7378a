"""The language and the seeds of the tests of uniform noise."""

import torch
from oracles.tables import TableLanguage

LANGUAGE = TableLanguage.random(vocab_size=3, length=2, seed=4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
