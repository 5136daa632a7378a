"""How diverse a set of texts is, beside a set of real ones: an `evaluate` measurement and plain functions.

One file on purpose: `evaluate.load` copies this script alone out of its folder. Only numpy is needed for the figures.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Diversity of a set of texts, each figure with a 95 % interval and beside the figure of as many real texts: Distinct-1..4, \
exact Self-BLEU (each text against all others), vocabulary, distinct first words and five-word openings, repetition, \
mean length. A set is good when it is close to the references, not when it is far above them.
"""

_KWARGS_DESCRIPTION = """
Args:
    data (list of str): the texts, at least two. Empty texts are stories without words.
    references (list of str, optional): real texts, at least as many; means over draws of len(data) of them are given.
    protocol (str): "exact" (default), or "arche", the definitions of arXiv 2603.22075 (see `diversity`).
    seed (int): of everything drawn at random.
    tokenizer (callable or str): what counts as a word: "words" (default, split at white space, lower case), "characters",
        or a function from a text to a list of tokens. Chinese, Japanese, Thai, ... need one of the latter two.
Returns:
    dict: NAME, NAME_ci (low, high) and, with references, NAME_reference and NAME_reference_ci for NAME in distinct_1, distinct_2,
    distinct_3, distinct_4, self_bleu, vocabulary_size, distinct_first_words, distinct_openings, repetition_4 and
    mean_words.
Examples:
    >>> diversity = evaluate.load("metrics/diversity")
    >>> texts = ["Tim saw a big red dog in the park.", "Tim saw a big red dog in the garden."]
    >>> diversity.compute(data=texts)["distinct_first_words"]
    0.5
"""

_CITATION = """\
@inproceedings{zhu2018texygen, title={Texygen: A Benchmarking Platform for Text Generation Models}, \
author={Zhu, Yaoming and others}, booktitle={SIGIR}, year={2018}}
@inproceedings{li2016diversity, title={A Diversity-Promoting Objective Function for Neural Conversation Models}, \
author={Li, Jiwei and others}, booktitle={NAACL}, year={2016}}
"""

NAMES = (
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "distinct_4",
    "self_bleu",
    "vocabulary_size",
    "distinct_first_words",
    "distinct_openings",
    "repetition_4",
    "mean_words",
)
PROTOCOLS = ("exact", "arche")
TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "words": lambda text: text.lower().split(),
    "characters": lambda text: [letter for letter in text.lower() if not letter.isspace()],
}
Tokenizer = str | Callable[[str], list[Any]]
# Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
                       "\uf900-\ufaff\U00020000-\U0003ffff]")  # fmt: skip
_LONG_WORD = 25  # letters a word, on average, that no text in words has

_MAX_ORDER = 4
_OPENING_WORDS = 5
_NUM_HALVES = 200
_NUM_RESAMPLES = 1000
_NUM_GROUPS = 30  # of the jackknife
_NUM_DRAWS, _NUM_BLEU_DRAWS, _NUM_ARCHE_DRAWS = 1000, 200, 20  # out of a pool; the figures differ in what they cost
_UNSPLIT_SHARE = 0.05  # of the texts, from which on it is worth a warning
_ROUGH_BELOW = 100  # texts; with fewer, both kinds of interval are rough
_ARCHE_CANDIDATES, _ARCHE_REFERENCES = 200, 50


def diversity(
    data: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    protocol: str = "exact",
    seed: int = 0,
    tokenizer: Tokenizer = "words",
) -> dict[str, Any]:
    """Diversity of `data`, with 95 % intervals, and of as many of `references`, over draws of them (`diversity_of_draws`).

    Words are what `tokenizer` gives. `distinct_N`: distinct over all N-grams of the corpus. `self_bleu`: mean over
    texts of BLEU-4 against all others (Zhu et al. 2018), unsmoothed. `vocabulary_size`: distinct words.
    `distinct_first_words`, `distinct_openings` (first five words): distinct ones over the number of texts.
    `repetition_4`: one minus distinct over all four-grams within a text, averaged over texts (0 below four words).
    All but `vocabulary_size` and `mean_words` are shares; all depend on the number and length of texts.

    Intervals: for means over texts a bootstrap over texts; for Self-BLEU a jackknife over groups of texts, as texts share
    their references (`_jackknife_interval`); for the others half-samples (see `_half_sample_intervals`), because resampling
    with replacement makes duplicates and so lowers every count of distinct things.

    Args:
        data (`list[str]`): at least 2 texts, one of them with a word.
        references (`list[str]`, *optional*): at least as many; draws of `len(data)` are compared.
        protocol (`str`, defaults to `"exact"`): or `"arche"`, as the arche paper's code (arXiv 2603.22075): Self-BLEU of 200
            random texts, each against 50 random others, brevity against their mean length. The rest is the same in both.
        seed (`int`, defaults to 0): 0 or more. Equal arguments give equal results.
        tokenizer (`str` or `Callable`, defaults to `"words"`): `text.lower().split()`; `"characters"`: lower case, without
            white space; or a function from a text to a list of tokens, such as a Hugging Face tokenizer's `tokenize`.

    Returns:
        `dict`: for each of `NAMES` the estimate, `NAME_ci` (low, high) and, with references, `NAME_reference`, the mean over
            draws, and `NAME_reference_ci`, their spread.

    Raises:
        ValueError: naming the argument, for no texts, only empty ones, a text that is not a str, too few references, an
            unknown protocol or tokenizer, or a bad seed. Warns (UserWarning) below 100 texts, and for texts whose words
            are not split by white space (`unsplit_share`) when `tokenizer` is "words".

    Example:

    ```python
    >>> import warnings
    >>> from arche_mdlm.metrics.diversity import diversity
    >>> texts = ["Tim saw a big red dog in the park.", "Tim saw a big red dog in the garden."]
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # two texts give rough intervals
    ...     found = diversity(texts)
    >>> found["distinct_first_words"], found["distinct_first_words_ci"][0] <= 0.5
    (0.5, True)

    ```
    """
    _check_settings(protocol, seed)
    split = _Splitter.of(tokenizer)
    data = _check_texts("data", data, split)
    references = _check_references(references, len(data), split)
    if len(data) < _ROUGH_BELOW:
        warnings.warn(f"data has {len(data)} texts; below {_ROUGH_BELOW} the intervals are rough", stacklevel=2)
    own, other = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    estimates, intervals = _Corpus.read(data, split).estimates_and_intervals(protocol, own)
    references_at_equal_n: dict[str, Any] = {}
    if references is not None:
        references_at_equal_n = _of_draws(_Corpus.read(references, split), len(data), protocol, other)
    result: dict[str, Any] = {}
    for name in NAMES:
        result |= {name: estimates[name], f"{name}_ci": intervals[name]}
        if references is not None:
            result[f"{name}_reference"] = references_at_equal_n[name]
            result[f"{name}_reference_ci"] = references_at_equal_n[f"{name}_ci"]
    return result


def diversity_of_draws(
    texts: Sequence[str], number: int, *, protocol: str = "exact", seed: int = 0, tokenizer: Tokenizer = "words"
) -> dict[str, Any]:
    """Diversity of `number` texts out of a pool: the mean over draws without replacement, and how far draws differ.

    The figure of one draw says little about the pool: of 100 out of 1,059 real stories, draws have 23 to 39 % distinct
    openings. 1,000 draws; 200 for Self-BLEU, and 20 for that of `protocol="arche"`, which take longer.

    The spread is that of sets of `number` fresh texts: the 2.5 and 97.5 % quantiles of the draws, their distances from the
    mean divided by sqrt(1 - number / len(texts)), because sets out of one pool have texts in common (exact for means, as
    in sampling from a finite population). For a `number` above half of the pool, which leaves draws little to differ by, it
    is the interval that `diversity` gives one draw, centred on the mean.

    Args:
        texts (`list[str]`): the pool, such as all held-out stories.
        number (`int`): 2 to `len(texts)`.
        protocol, seed, tokenizer: see `diversity`.

    Returns:
        `dict`: for each of `NAMES` the mean, and `NAME_ci` (low, high), the spread.

    Raises:
        ValueError: as `diversity`, and for a `number` that the pool does not hold.
    """
    _check_settings(protocol, seed)
    split = _Splitter.of(tokenizer)
    texts = _check_texts("texts", texts, split)
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 2 <= number <= len(texts):
        raise ValueError(f"number={number!r} must be an integer from 2 to the number of texts, {len(texts)}")
    return _of_draws(_Corpus.read(texts, split), int(number), protocol, np.random.default_rng(seed))


def diversity_differences(
    first: Sequence[str], second: Sequence[str], seed: int = 0, *, tokenizer: Tokenizer = "words"
) -> dict[str, dict[str, float]]:
    """Diversity of `first` minus that of `second`, two lists of as many texts, those at one place from the same prompt.

    Returns `estimate`, `low` and `high` (95 %) for each of `NAMES`. Means over texts: bootstrap over pairs; Self-BLEU:
    jackknife over groups of pairs; counts of distinct things: half-samples of pairs. Raises ValueError as `diversity` does, and for lists of unequal length.
    """
    split = _Splitter.of(tokenizer)
    first, second = _check_texts("first", first, split), _check_texts("second", second, split)
    if len(first) != len(second):
        raise ValueError(f"first has {len(first)} texts and second {len(second)}: a difference is of as many, in pairs")
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]
    one, other = _Corpus.read(first, split), _Corpus.read(second, split)

    def distinct(chosen: np.ndarray) -> dict[str, float]:
        return _minus(one.distinct(chosen), other.distinct(chosen))

    estimates = distinct(np.ones(len(first), dtype=bool))
    stories = _minus(one.per_story("exact", streams[0]), other.per_story("exact", streams[0]))
    intervals = _half_sample_intervals(distinct, len(first), estimates, streams[0], lowest=-1.0)
    intervals |= _bootstrap_intervals(stories, streams[1])
    estimates |= {name: float(values.mean()) for name, values in stories.items()}
    intervals["self_bleu"] = _jackknife_interval(
        lambda chosen: one.mean_bleu(chosen) - other.mean_bleu(chosen),
        len(first),
        estimates["self_bleu"],
        streams[1],
        -1.0,
    )
    return {
        name: {"estimate": estimates[name], "low": intervals[name][0], "high": intervals[name][1]} for name in NAMES
    }


def _minus(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {name: value - second[name] for name, value in first.items()}


def per_story_self_bleu(texts: Sequence[str], *, tokenizer: Tokenizer = "words") -> np.ndarray:
    """BLEU-4 of each text against all others, (len(texts),) float64 in [0, 1]; exact, in time linear in the words.

    Equal to NLTK's `sentence_bleu(others, text)` without smoothing; a text without a match of some order scores 0 (NLTK:
    1e-77 or so). Raises ValueError as `diversity` does.
    """
    split = _Splitter.of(tokenizer)
    return _Corpus.read(_check_texts("texts", texts, split), split).self_bleu()


def unsplit_share(texts: Iterable[str]) -> float:
    """Share of the texts with a letter of which white space does not separate the words.

    Those are mostly in a script that writes no spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan), or have
    more than 25 letters a word.
    """
    known, unsplit = 0, 0
    for text in texts:
        letters = sum(letter.isalpha() for letter in text)
        known += letters > 0
        unsplit += letters > 0 and (
            2 * len(_UNSPACED.findall(text)) > letters or letters > _LONG_WORD * max(1, len(text.split()))
        )
    return unsplit / max(1, known)


@dataclass(frozen=True)
class _Splitter:
    """Texts to lists of tokens."""

    function: Callable[[str], list]
    is_default: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "_Splitter":
        if isinstance(tokenizer, str) and tokenizer in TOKENIZERS:
            return cls(TOKENIZERS[tokenizer], tokenizer == "words")
        if isinstance(tokenizer, str) or not callable(tokenizer):
            raise ValueError(
                f"tokenizer={tokenizer!r:.80} must be one of {', '.join(TOKENIZERS)}, or a function from a text to a list of "
                "tokens"
            )
        return cls(tokenizer, False)

    def __call__(self, text: str) -> list:
        tokens = self.function(text)
        if not isinstance(tokens, (list, tuple)):
            raise ValueError(
                f"tokenizer gives {type(tokens).__name__} for a text, not a list of tokens; of a Hugging Face tokenizer, pass "
                "its method `tokenize`"
            )
        return list(tokens)

    def warn(self, name: str, texts: list[str]) -> None:
        if self.is_default and (share := unsplit_share(texts)) >= _UNSPLIT_SHARE:
            warnings.warn(
                f"{name}: white space does not separate the words of {share:.0%} of the texts, so a whole sentence counts as "
                "a word; give tokenizer='characters', or a function that splits a text of this language into words",
                stacklevel=4,
            )


@dataclass(frozen=True)
class _Kinds:
    """Which things (n-grams, first words, ...) occur in which text: P distinct (kind, text) pairs, sorted by kind."""

    kind: np.ndarray  # (P,) 0 to the number of kinds
    text: np.ndarray  # (P,)
    count: np.ndarray  # (P,) of this kind in this text
    totals: np.ndarray  # (D,) things in each text

    @classmethod
    def collect(cls, kind: np.ndarray, text: np.ndarray, num_texts: int) -> "_Kinds":
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

    def of(self, chosen: np.ndarray) -> "_Kinds":
        """Those of the texts of the mask `chosen` (D,), texts and kinds numbered anew."""
        kept = chosen[self.text]
        kind = self.kind[kept]
        number = np.cumsum(np.diff(kind, prepend=kind[:1]) > 0)
        return _Kinds(number, (np.cumsum(chosen) - 1)[self.text[kept]], self.count[kept], self.totals[chosen])

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
class _Corpus:
    """Counts of D texts."""

    lengths: np.ndarray  # (D,) words
    orders: list[_Kinds]  # n-grams for n = 1 to 4
    first_words: _Kinds
    openings: _Kinds

    @classmethod
    def read(cls, texts: list[str], split: _Splitter) -> "_Corpus":
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
            orders.append(_Kinds.collect(ngram, text[start], len(texts)))
        openings = [cls._openings(words, size) for size in (1, _OPENING_WORDS)]
        return cls(lengths, orders, *openings)

    @staticmethod
    def _openings(words: list[list[str]], size: int) -> _Kinds:
        numbers: dict = {}
        text = np.array([index for index, story in enumerate(words) if story], dtype=np.int64)
        kind = [numbers.setdefault(tuple(words[index][:size]), len(numbers)) for index in text]
        return _Kinds.collect(np.array(kind, dtype=np.int64), text, len(words))

    def of(self, chosen: np.ndarray) -> "_Corpus":
        """The texts of the mask `chosen` (D,)."""
        orders = [kinds.of(chosen) for kinds in self.orders]
        return _Corpus(self.lengths[chosen], orders, self.first_words.of(chosen), self.openings.of(chosen))

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
        intervals = _half_sample_intervals(self.distinct, len(self.lengths), distinct, rng)
        intervals |= _bootstrap_intervals(stories, rng)
        if protocol == "exact":
            intervals["self_bleu"] = _jackknife_interval(self.mean_bleu, len(self.lengths), estimates["self_bleu"], rng)
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


def _of_draws(corpus: _Corpus, number: int, protocol: str, rng: np.random.Generator) -> dict[str, Any]:
    """`NAME` and `NAME_ci` of `diversity_of_draws`."""
    size = len(corpus.lengths)
    by_text = [kinds.by_text() for kinds in (*corpus.orders, corpus.first_words, corpus.openings)]
    kinds = (*corpus.orders, corpus.first_words, corpus.openings)
    stories = corpus.per_text()
    values: dict[str, list[float]] = {name: [] for name in NAMES}
    bleu_draws = _NUM_BLEU_DRAWS if protocol == "exact" else _NUM_ARCHE_DRAWS
    for index in range(_NUM_DRAWS if number < size else 1):
        drawn = rng.choice(size, size=number, replace=False)
        counts = [_num_distinct(own, drawn, each.num_kinds) for own, each in zip(by_text, kinds, strict=True)]
        for n, order in enumerate(corpus.orders, start=1):
            values[f"distinct_{n}"].append(counts[n - 1] / max(1, int(order.totals[drawn].sum())))
        values["vocabulary_size"].append(counts[0])
        values["distinct_first_words"].append(counts[-2] / number)
        values["distinct_openings"].append(counts[-1] / number)
        for name, by_story in stories.items():
            values[name].append(float(by_story[drawn].mean()))
        if index < bleu_draws:
            values["self_bleu"].append(float(corpus.of(_mask(drawn, size)).story_bleu(protocol, rng).mean()))
    found: dict[str, Any] = {name: float(np.mean(own)) for name, own in values.items()}
    found |= {name: float(by_story.mean()) for name, by_story in stories.items()}  # the mean over all draws there are
    if 2 * number <= size:
        wider = 1 / np.sqrt(1 - number / size)
        for name, own in values.items():
            below, above = (wider * float(end - found[name]) for end in np.percentile(own, [2.5, 97.5]))
            found[f"{name}_ci"] = _in_range(name, found[name] + min(0.0, below), found[name] + max(0.0, above))
        return found
    one = corpus.of(_mask(drawn, size))
    estimates, intervals = one.estimates_and_intervals(protocol, rng)
    for name in NAMES:
        low, high = (found[name] + float(end - estimates[name]) for end in intervals[name])
        found[f"{name}_ci"] = _in_range(name, low, high)
    return found


def _mask(chosen: np.ndarray, size: int) -> np.ndarray:
    """(size,) True at the indices `chosen`."""
    mask = np.zeros(size, dtype=bool)
    mask[chosen] = True
    return mask


def _num_distinct(by_text: list[np.ndarray], chosen: np.ndarray, num_kinds: int) -> int:
    seen = np.zeros(num_kinds, dtype=bool)
    seen[np.concatenate([by_text[index] for index in chosen])] = True
    return int(seen.sum())


def _in_range(name: str, low: float, high: float, lowest: float = 0.0) -> tuple[float, float]:
    """An interval cut to what the figure can be: a share is at most 1, nothing is below `lowest`."""
    if name in ("vocabulary_size", "mean_words"):
        return (max(0.0, low) if lowest == 0 else low, high)
    return max(lowest, low), min(1.0, high)


def _half_sample_intervals(
    distinct: Callable[[np.ndarray], dict[str, float]],
    num_texts: int,
    estimates: dict[str, float],
    rng: np.random.Generator,
    lowest: float = 0.0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of counts of distinct things: the estimate -+ 1.96 of its standard deviation, cut to its range.

    `distinct(chosen)` gives the figures of the texts of a mask (num_texts,), which are between `lowest` and 1.

    The standard deviation S_m of m texts drawn without replacement out of n tells how much one text matters at that
    size: I_m = S_m sqrt(m / (1 - m / n)), and n fresh texts deviate by I_n / sqrt(n). For a mean I does not depend on
    m, and half-samples deviate just as n fresh texts do. For distinct things it does: a text's new words get fewer
    with n, the others that it repeats get more. So I_n is I at n / 2 carried on by the power law through I at n / 4, by
    at least 1 / 2 and at most 2 times: n^-1 and n^1 are the extremes of these two. Measured on TinyStories, n = 400 and
    1,000: 0.8 to 1.2 of the spread over fresh samples, where the half-samples alone give 0.7 to 1.4.
    """
    half, quarter = num_texts // 2, max(1, num_texts // 4)
    at_half, at_quarter = (_influence(distinct, num_texts, size, rng) for size in (half, quarter))
    intervals = {}
    for name, estimate in estimates.items():
        growth = 1.0
        if half > quarter and at_quarter[name] > 0:
            growth = (at_half[name] / at_quarter[name]) ** (np.log(num_texts / half) / np.log(half / quarter))
        deviation = at_half[name] * np.clip(growth, 0.5, 2) / np.sqrt(num_texts)
        deviation *= num_texts if name == "vocabulary_size" else 1
        low, high = float(estimate - 1.96 * deviation), float(estimate + 1.96 * deviation)
        intervals[name] = _in_range(name, low, high, lowest)
    return intervals


def _influence(
    distinct: Callable[[np.ndarray], dict[str, float]], num_texts: int, size: int, rng: np.random.Generator
) -> dict[str, float]:
    """I of `_half_sample_intervals` for samples of `size` texts; of the vocabulary per text, to make it a share too."""
    samples = []
    for _ in range(_NUM_HALVES):
        chosen = np.zeros(num_texts, dtype=bool)
        chosen[rng.choice(num_texts, size=size, replace=False)] = True
        figures = distinct(chosen)
        samples.append(figures | {"vocabulary_size": figures["vocabulary_size"] / size})
    scale = np.sqrt(size / (1 - size / num_texts))
    return {name: scale * float(np.std([sample[name] for sample in samples], ddof=1)) for name in samples[0]}


def _jackknife_interval(
    figure: Callable[[np.ndarray], float],
    num_texts: int,
    estimate: float,
    rng: np.random.Generator,
    lowest: float = 0.0,
) -> tuple[float, float]:
    """95 % interval of Self-BLEU, by a jackknife over groups of texts: `figure(chosen)` of a mask without one group each.

    A text is a reference of all others as well as a candidate. A bootstrap of the texts' values forgets the former: its
    "95 %" held the mean of many sets in 89 and 90 % of 150 sets of 60 and 120 texts of a Markov language, and in 90 % of 80
    sets of 100 TinyStories. Leaving out whole texts keeps both: 97, 97 and 98 %, so it is a little too wide. The variance is
    (G - 1) / G times the sum of squared deviations, of G groups at random (Shao and Tu 1995, 2.3); Student's t of G - 1.
    """
    groups = np.array_split(rng.permutation(num_texts), min(_NUM_GROUPS, num_texts))
    left = np.array([figure(~_mask(group, num_texts)) for group in groups])
    freedom = len(groups) - 1
    deviation = np.sqrt(freedom / len(groups) * ((left - left.mean()) ** 2).sum())
    half = float(_student(freedom) * deviation)
    return max(lowest, estimate - half), min(1.0, estimate + half)


def _student(freedom: int) -> float:
    """Student's 97.5 % quantile, to 0.001 from 5 degrees of freedom on and too low below (Abramowitz and Stegun 26.7.5)."""
    z = 1.959964
    return float(z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2))


def _bootstrap_intervals(stories: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of means over texts, resampled with replacement; widened to hold the mean itself.

    Not for exact Self-BLEU (`_jackknife_interval`). That of `protocol="arche"` is taken as given for each candidate: what other
    texts to compare with would change is not in its interval, which is too narrow by a tenth or more.
    """
    intervals = {}
    for name, values in stories.items():
        means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_NUM_RESAMPLES)]
        low, high = np.percentile(means, [2.5, 97.5])
        intervals[name] = (float(min(low, values.mean())), float(max(high, values.mean())))
    return intervals


def _check_references(references: Any, num_texts: int, split: _Splitter) -> list[str] | None:
    if references is None:
        return None
    references = _check_texts("references", references, split)
    if len(references) < num_texts:
        raise ValueError(
            f"references has {len(references)} texts and data {num_texts}: figures compare at equal numbers only, so "
            "references needs at least as many"
        )
    return references


def _check_settings(protocol: Any, seed: Any) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r} must be an integer, 0 or more")


def _as_texts(name: str, texts: Any) -> list[str]:
    if texts is None or isinstance(texts, (str, bytes, dict)) or not hasattr(texts, "__iter__"):
        raise ValueError(f"{name}={texts!r:.80} must be a list of str, one for each text")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}]={text!r:.80} is of type {type(text).__name__}; every text must be a str")
    return texts


def _check_texts(name: str, texts: Any, split: _Splitter) -> list[str]:
    texts = _as_texts(name, texts)
    if len(texts) < 2:
        raise ValueError(f"{name}={texts!r:.80} has {len(texts)} texts; at least 2 are needed to compare them")
    if not any(split(text) for text in texts):
        raise ValueError(f"{name} has {len(texts)} texts and all are empty; at least one must have a word")
    split.warn(name, texts)
    return texts


class Diversity(evaluate.Measurement):
    """The `evaluate` measurement around `diversity`."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/1802.01886", "https://arxiv.org/abs/1510.03055"],
        )

    def compute(
        self,
        *,
        data: Sequence[str] | None = None,
        predictions: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
        protocol: str = "exact",
        seed: int = 0,
        tokenizer: Tokenizer = "words",
    ) -> dict[str, Any] | None:
        """`diversity` of `data` and of all that was added before.

        `predictions`, which `evaluate.combine` always gives, replaces `data` if that is missing.
        """
        data = predictions if data is None else data
        if data is None and len(self) == 0:
            raise ValueError("data=None: give a list of texts, or add some first")
        # Checked here too: Arrow would take numbers for texts, and an error inside `_compute` keeps a file lock.
        _check_settings(protocol, seed)
        split = _Splitter.of(tokenizer)
        if data is not None:
            data = _as_texts("data", data) if len(self) else _check_texts("data", data, split)
        references = _check_references(references, len(self) + len(data or []), split)
        # `references` under another name: evaluate drops an argument of that name unless it is a column.
        return super().compute(data=data, reference_texts=references, protocol=protocol, seed=seed, tokenizer=tokenizer)

    def _compute(
        self,
        data: Sequence[str],
        reference_texts: Sequence[str] | None = None,
        protocol: str = "exact",
        seed: int = 0,
        tokenizer: Tokenizer = "words",
    ) -> dict[str, Any]:
        return diversity(data, reference_texts, protocol=protocol, seed=seed, tokenizer=tokenizer)
