"""Counts of n-grams, first words and openings of a set of texts, and what is computed from them alone."""

from dataclasses import dataclass

import numpy as np

from .intervals import bootstrap_intervals, half_sample_intervals, jackknife_interval
from .words import Splitter

_MAX_ORDER = 4
_OPENING_WORDS = 5
_ARCHE_CANDIDATES, _ARCHE_REFERENCES = 200, 50


@dataclass(frozen=True)
class Kinds:
    """Which things (n-grams, first words, ...) occur in which text: P distinct (kind, text) pairs, sorted by kind."""

    kind: np.ndarray  # (P,) 0 to the number of kinds
    text: np.ndarray  # (P,)
    count: np.ndarray  # (P,) of this kind in this text
    totals: np.ndarray  # (D,) things in each text

    @classmethod
    def collect(cls, kind: np.ndarray, text: np.ndarray, num_texts: int) -> "Kinds":
        """From one entry for each occurrence."""
        pairs, count = np.unique(kind * num_texts + text, return_counts=True)
        return cls(pairs // num_texts, pairs % num_texts, count, np.bincount(text, minlength=num_texts))

    def num_distinct(self, chosen: np.ndarray) -> int:
        """Distinct things in the texts of the mask `chosen` (D,)."""
        seen = np.zeros(self.num_kinds, dtype=bool)
        seen[self.kind[chosen[self.text]]] = True
        return int(seen.sum())

    @property
    def num_kinds(self) -> int:
        return int(self.kind[-1]) + 1 if len(self.kind) else 0

    def of(self, chosen: np.ndarray) -> "Kinds":
        """Those of the texts of the mask `chosen` (D,), texts and kinds numbered anew."""
        kept = chosen[self.text]
        kind = self.kind[kept]
        number = np.cumsum(np.diff(kind, prepend=kind[:1]) > 0)
        return Kinds(number, (np.cumsum(chosen) - 1)[self.text[kept]], self.count[kept], self.totals[chosen])

    def by_text(self) -> list[np.ndarray]:
        """The kinds of each of the D texts."""
        order = np.argsort(self.text, kind="stable")
        return np.split(self.kind[order], np.cumsum(self.distinct_by_text())[:-1])

    def matches_with_all_others(self) -> np.ndarray:
        """(D,) BLEU's clipped matches: counts clipped to the highest count of the kind in any one other text.

        The highest over the others is the kind's highest count, or its second highest for the text that holds the
        highest (two holders make the second highest equal to it), so two numbers a kind are enough.
        """
        if not len(self.kind):
            return np.zeros(len(self.totals))
        start = np.flatnonzero(np.diff(self.kind, prepend=-1))
        highest = np.maximum.reduceat(self.count, start)
        holds = self.count == highest[self.kind]
        shared = np.add.reduceat(holds.astype(np.int64), start) > 1
        second = np.where(shared, highest, np.maximum.reduceat(np.where(holds, 0, self.count), start))
        highest_other = np.where(holds, second[self.kind], highest[self.kind])
        return self._sum_by_text(np.minimum(self.count, highest_other))

    def matches(self, candidate: int, others: np.ndarray) -> int:
        """The same for one text against the texts of the mask `others` (D,)."""
        pool = others[self.text]
        highest = np.zeros(self.num_kinds, dtype=self.count.dtype)
        np.maximum.at(highest, self.kind[pool], self.count[pool])
        own = self.text == candidate
        return int(np.minimum(self.count[own], highest[self.kind[own]]).sum())

    def distinct_by_text(self) -> np.ndarray:
        return np.bincount(self.text, minlength=len(self.totals))

    def _sum_by_text(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.text, weights=values, minlength=len(self.totals))


@dataclass(frozen=True)
class Corpus:
    """Counts of D texts."""

    lengths: np.ndarray  # (D,) words
    orders: list[Kinds]  # n-grams for n = 1 to 4
    first_words: Kinds
    openings: Kinds

    @classmethod
    def read(cls, texts: list[str], split: Splitter) -> "Corpus":
        words = [split(text) for text in texts]
        lengths = np.array([len(story) for story in words])
        numbers: dict = {}
        flat = [numbers.setdefault(word, len(numbers)) for story in words for word in story]
        word = np.array(flat, dtype=np.int64)
        text = np.repeat(np.arange(len(texts)), lengths)
        to_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(word))
        orders, start, ngram = [], np.arange(len(word)), word
        for n in range(1, _MAX_ORDER + 1):
            if n > 1:  # an n-gram is an (n-1)-gram and a word
                longer = to_end[start] >= n
                start = start[longer]
                pair = ngram[longer] * len(numbers) + word[start + n - 1]
                ngram = np.unique(pair, return_inverse=True)[1]
            orders.append(Kinds.collect(ngram, text[start], len(texts)))
        openings = [cls._openings(words, size) for size in (1, _OPENING_WORDS)]
        return cls(lengths, orders, *openings)

    @staticmethod
    def _openings(words: list[list[str]], size: int) -> Kinds:
        numbers: dict = {}
        text = np.array([index for index, story in enumerate(words) if story], dtype=np.int64)
        kind = [numbers.setdefault(tuple(words[index][:size]), len(numbers)) for index in text]
        return Kinds.collect(np.array(kind, dtype=np.int64), text, len(words))

    def of(self, chosen: np.ndarray) -> "Corpus":
        """The texts of the mask `chosen` (D,)."""
        orders = [kinds.of(chosen) for kinds in self.orders]
        return Corpus(self.lengths[chosen], orders, self.first_words.of(chosen), self.openings.of(chosen))

    def distinct(self, chosen: np.ndarray) -> dict[str, float]:
        """The figures that count distinct things, for the texts of the mask `chosen` (D,)."""
        result = {}
        for n, kinds in enumerate(self.orders, start=1):
            result[f"distinct_{n}"] = kinds.num_distinct(chosen) / max(1, int(kinds.totals[chosen].sum()))
        result["vocabulary_size"] = self.orders[0].num_distinct(chosen)
        result["distinct_first_words"] = self.first_words.num_distinct(chosen) / int(chosen.sum())
        result["distinct_openings"] = self.openings.num_distinct(chosen) / int(chosen.sum())
        return result

    def per_story(self, protocol: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The figures that are means over texts: the value of each text (of each candidate, for arche's Self-BLEU)."""
        return {"self_bleu": self.story_bleu(protocol, rng), **self.per_text()}

    def per_text(self) -> dict[str, np.ndarray]:
        """Those of them that do not depend on the other texts, (D,) each."""
        longest = self.orders[-1]
        shares = 1 - longest.distinct_by_text() / np.maximum(1, longest.totals)
        return {"repetition_4": np.where(longest.totals > 0, shares, 0.0), "mean_words": self.lengths.astype(float)}

    def story_bleu(self, protocol: str, rng: np.random.Generator) -> np.ndarray:
        """(D,), or (C,) of arche's candidates."""
        return self.self_bleu() if protocol == "exact" else self.sampled_self_bleu(rng)

    def estimates_and_intervals(
        self, protocol: str, rng: np.random.Generator
    ) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """All figures, and their 95 % intervals."""
        distinct = self.distinct(np.ones(len(self.lengths), dtype=bool))
        stories = self.per_story(protocol, rng)
        estimates = distinct | {name: float(values.mean()) for name, values in stories.items()}
        intervals = half_sample_intervals(self.distinct, len(self.lengths), distinct, rng)
        intervals |= bootstrap_intervals(stories, rng)
        if protocol == "exact":
            intervals["self_bleu"] = jackknife_interval(self.mean_bleu, len(self.lengths), estimates["self_bleu"], rng)
        return estimates, intervals

    def mean_bleu(self, chosen: np.ndarray) -> float:
        """Self-BLEU of the texts of the mask `chosen` (D,)."""
        return float(self.of(chosen).self_bleu().mean())

    def self_bleu(self) -> np.ndarray:
        """(D,) each text against all others; brevity against the closest length, the shorter of two as close."""
        matches = np.stack([kinds.matches_with_all_others() for kinds in self.orders])
        lengths, which, holders = np.unique(self.lengths, return_inverse=True, return_counts=True)
        padded = np.concatenate([[-np.inf], lengths, [np.inf]])
        below, above = padded[:-2], padded[2:]
        neighbour = np.where(lengths - below <= above - lengths, below, above)
        closest = np.where(holders > 1, lengths, neighbour)[which]
        return self._bleu(matches, np.arange(len(self.lengths)), closest)

    def sampled_self_bleu(self, rng: np.random.Generator) -> np.ndarray:
        """(C,) the arche paper's: up to 200 random texts, each against up to 50 random others, by their mean length."""
        num_texts = len(self.lengths)
        candidates = rng.choice(num_texts, size=min(_ARCHE_CANDIDATES, num_texts), replace=False)
        matches = np.zeros((_MAX_ORDER, len(candidates)))
        mean_lengths = np.zeros(len(candidates))
        for column, candidate in enumerate(candidates):
            drawn = rng.choice(num_texts - 1, size=min(_ARCHE_REFERENCES, num_texts - 1), replace=False)
            others = np.zeros(num_texts, dtype=bool)
            others[drawn + (drawn >= candidate)] = True
            matches[:, column] = [kinds.matches(candidate, others) for kinds in self.orders]
            mean_lengths[column] = self.lengths[others].mean()
        return self._bleu(matches, candidates, mean_lengths)

    def _bleu(self, matches: np.ndarray, texts: np.ndarray, reference_lengths: np.ndarray) -> np.ndarray:
        """BLEU (Papineni et al. 2002) from clipped matches (4, C) of `texts` (C,); 0 without a match of some order."""
        totals = np.stack([kinds.totals[texts] for kinds in self.orders])
        positive = (matches > 0).all(axis=0)
        precision = np.where(positive, matches, 1) / np.maximum(1, totals)
        brevity = np.minimum(0, 1 - reference_lengths / np.maximum(1, self.lengths[texts]))
        return np.where(positive, np.exp(np.log(precision).mean(axis=0) + brevity), 0.0)
