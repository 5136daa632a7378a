"""An interpolated bigram model: the floor that a language model must be better than for its texts to say anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_WEIGHTS = np.linspace(0.02, 0.98, 49)  # of the bigram, of which the held-back stories choose one
_UNIFORM = 0.001  # the share of the uniform law in the unigram's, for tokens that training lacks
_HELD_BACK = 0.05  # of the training stories


@dataclass(frozen=True, eq=False)
class InterpolatedBigram:
    """Jelinek and Mercer (1980): p(v | u) = weight * count(u v) / count(u) + (1 - weight) * p(v).

    p(v) is the unigram's share, mixed with 0.1 % of the uniform law, so that no token is impossible; behind a token that
    training lacks it stands alone.

    Args:
        weight: of the bigram, between 0 and 1.
        unigram: (V,) float64.
        pairs: (P,) int64 u * V + v, sorted; counts: (P,) of each; before: (V,) how often a token is followed by another.
    """

    weight: float
    unigram: np.ndarray
    pairs: np.ndarray
    counts: np.ndarray
    before: np.ndarray

    def story_nats(self, rows: Iterable[Sequence[int]]) -> list[float]:
        """Negative log-likelihood in nats of each row of ids (BOS ... EOS), given its BOS."""
        return [float(-np.log(self._mixed(*self._parts(np.asarray(row)), self.weight)).sum()) for row in rows]

    def nats_per_token(self, rows: Sequence[Sequence[int]]) -> float:
        """Of all rows; BOS is not counted, EOS is."""
        return sum(self.story_nats(rows)) / sum(len(row) - 1 for row in rows)

    def _parts(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bigram's share, unigram's, whether the token before is known) of each token behind the first."""
        first, second = row[:-1].astype(np.int64), row[1:].astype(np.int64)
        wanted = first * len(self.unigram) + second
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        count = np.where(self.pairs[place] == wanted, self.counts[place], 0)
        before = self.before[first]
        return count / np.maximum(1, before), self.unigram[second], before > 0

    @staticmethod
    def _mixed(bigram: np.ndarray, unigram: np.ndarray, known: np.ndarray, weight: float) -> np.ndarray:
        own = np.where(known, weight, 0.0)
        return own * bigram + (1 - own) * unigram


def fit_bigram(rows: Sequence[Sequence[int]], vocab_size: int, seed: int = 0) -> InterpolatedBigram:
    """The model of training stories (rows of ids, BOS ... EOS).

    5 % of the stories, at random, are held back from the counts to choose the weight; the counts returned are of all.

    Raises:
        ValueError: for fewer than 2 stories, one without two tokens, or an id outside of the vocabulary.
    """
    if len(rows) < 2 or min(map(len, rows)) < 2:
        raise ValueError(f"rows has {len(rows)} stories; at least 2 of at least 2 tokens each are needed")
    order = np.random.default_rng([seed, 11]).permutation(len(rows))
    count = max(1, round(_HELD_BACK * len(rows)))
    held_back, kept = ([rows[i] for i in part] for part in (order[:count], order[count:]))
    first = _counted(kept, vocab_size, 0.5)
    each = [first._parts(np.asarray(row)) for row in held_back]
    bigram, unigram, known = (np.concatenate([parts[place] for parts in each]) for place in range(3))
    nats = [-np.log(first._mixed(bigram, unigram, known, weight)).sum() for weight in _WEIGHTS]
    return _counted(rows, vocab_size, float(_WEIGHTS[int(np.argmin(nats))]))


def _counted(rows: Sequence[Sequence[int]], vocab_size: int, weight: float) -> InterpolatedBigram:
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"vocab_size={vocab_size}: the ids of rows go from {ids.min()} to {ids.max()}")
    begins = np.zeros(len(ids), dtype=bool)
    begins[np.cumsum([0, *(len(row) for row in rows[:-1])])] = True
    second = np.flatnonzero(~begins)
    pairs, counts = np.unique(ids[second - 1] * vocab_size + ids[second], return_counts=True)
    shares = np.bincount(ids[second], minlength=vocab_size) / len(second)
    unigram = (1 - _UNIFORM) * shares + _UNIFORM / vocab_size
    return InterpolatedBigram(weight, unigram, pairs, counts, np.bincount(ids[second - 1], minlength=vocab_size))
