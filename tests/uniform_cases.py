"""The language and the seeds of the tests of uniform noise."""

from oracles.tables import TableLanguage

LANGUAGE = TableLanguage.random(vocab_size=3, length=2, seed=4)
