"""How much of a text is copied from the training text: its longest shared n-gram and its share of shared 13-grams."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

if TYPE_CHECKING:  # slow to import
    from transformers import PreTrainedTokenizerBase

_UNSPLIT_SHARE = 0.05  # of the texts, from which on it is worth a warning
_UNKNOWN, _SEPARATOR = -1, 0  # a word that training lacks; what stands behind each training text


class Memorisation(NamedTuple):
    """Of N texts against the training texts; an n-gram is one of words, or of tokens where a tokenizer was given."""

    longest: list[int]  # length of the longest n-gram of each text that occurs within a training text
    # Of each text's n-grams of `order`, repeats counted; None for a text shorter than `order`.
    share: list[float | None]
    lengths: list[int]  # words or tokens of each text
    order: int
    reference: "Memorisation | None" = None  # the same of the held-out texts

    @property
    def mean_longest(self) -> float:
        """Words or tokens, averaged over the texts."""
        return float(np.mean(self.longest))

    @property
    def mean_share(self) -> float:
        """Over the texts of at least `order` words; NaN without any."""
        known = [share for share in self.share if share is not None]
        return float(np.mean(known)) if known else float("nan")

    @property
    def copied(self) -> float:
        """Share of the non-empty texts that are contained in a training text; NaN without any."""
        whole = [longest == length for longest, length in zip(self.longest, self.lengths, strict=True) if length]
        return float(np.mean(whole)) if whole else float("nan")


def warn_of_unsplit(name: str, texts: Sequence[str]) -> None:
    """UserWarning where white space does not separate the words of the texts, as in Chinese."""
    from arche_mdlm.metrics.diversity import unsplit_share

    if (share := unsplit_share(texts[:1000])) >= _UNSPLIT_SHARE:
        warnings.warn(
            f"{name}: white space does not separate the words of {share:.0%} of the texts, so a whole sentence counts as a "
            "word; give tokenizer=",
            stacklevel=3,
        )


def words(text: str) -> list[str]:
    """As in all of this package's figures of texts."""
    return text.lower().split()


class TrainingIndex:
    """Every n-gram of the training texts, of any length: a suffix array, exact and without hashing.

    Made by prefix doubling (Manber and Myers 1990); 2.7M words take 5 s on one core and some 0.6 GB while it is made.

    Args:
        training: texts, at least one.
        tokenizer: whose tokens are counted, without special tokens; None: words, `text.lower().split()`.
    """

    def __init__(self, training: Sequence[str], *, tokenizer: "PreTrainedTokenizerBase | None" = None) -> None:
        _check_texts("training", training)
        if tokenizer is None:
            warn_of_unsplit("training", training)
        self.split: Callable[[Sequence[str]], list[list]] = _splitter(tokenizer)
        self._ids: dict = {}
        rows = [[self._ids.setdefault(word, len(self._ids) + 1) for word in row] for row in self.split(training)]
        self._corpus = np.array([word for row in rows for word in (*row, _SEPARATOR)], dtype=np.int32)
        self._suffixes = suffix_array(self._corpus)

    def match_lengths(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text and each of its words, how many words from there on occur within a training text together."""
        rows = [[self._ids.get(word, _UNKNOWN) for word in row] for row in self.split(texts)]
        ends = np.cumsum([len(row) + 1 for row in rows])
        query = np.array([word for row in rows for word in (*row, _UNKNOWN)], dtype=np.int32)
        lengths = self._match(query)
        return [lengths[end - len(row) - 1 : end - 1] for row, end in zip(rows, ends, strict=True)]

    def _match(self, query: np.ndarray) -> np.ndarray:
        """(Q,) longest match from each place of a query that ends with an unknown word.

        All places at once: each has a range of the suffix array whose suffixes begin with its first words. A word more
        narrows the range to where, behind those, that word follows; a place whose range becomes empty is done.
        """
        lengths = np.zeros(len(query), dtype=np.int64)
        place = np.arange(len(query))
        low, high = np.zeros(len(query), dtype=np.int64), np.full(len(query), len(self._suffixes))
        for depth in range(len(query)):
            wanted = query[place + depth]
            low, high = (self._bisect(low, high, depth, wanted + more) for more in (0, 1))
            alive = (low < high) & (wanted != _UNKNOWN)
            place, low, high = place[alive], low[alive], high[alive]
            if not len(place):
                break
            lengths[place] = depth + 1
        return lengths

    def _bisect(self, low: np.ndarray, high: np.ndarray, depth: int, wanted: np.ndarray) -> np.ndarray:
        """First index in [low, high) whose suffix has at `depth` at least the word `wanted`; all (P,)."""
        low, high = low.copy(), high.copy()
        while (still := low < high).any():
            middle = (low + high) // 2
            at = np.minimum(self._suffixes[np.minimum(middle, len(self._suffixes) - 1)] + depth, len(self._corpus) - 1)
            less = still & (self._corpus[at] < wanted)
            low, high = np.where(less, middle + 1, low), np.where(still & ~less, middle, high)
        return low


def suffix_array(corpus: np.ndarray) -> np.ndarray:
    """(N,) starts of the suffixes of integers (N,), at least 0, in lexicographic order; a shorter one before a longer."""
    rank, step = np.unique(corpus, return_inverse=True)[1].astype(np.int64), 1
    while rank.max() < len(corpus) - 1:
        behind = np.zeros_like(rank)  # rank of what follows, 0 for nothing
        behind[: max(len(rank) - step, 0)] = rank[step:] + 1
        rank = np.unique(rank * (len(corpus) + 1) + behind, return_inverse=True)[1]
        step *= 2
    suffixes = np.empty_like(rank)
    suffixes[rank] = np.arange(len(rank))
    return suffixes


def memorisation(
    texts: Sequence[str],
    training: Sequence[str] | TrainingIndex,
    references: Sequence[str] | None = None,
    *,
    order: int = 13,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    chunk: int = 256,
    progress: bool = False,
) -> Memorisation:
    """Longest training n-gram of each text, and the share of its 13-grams found in training.

    13 words are what GPT-3's authors took for an overlap with training (Brown et al. 2020, arXiv 2005.14165, appendix C).
    No n-gram reaches over the end of a training text. A longer text has the longer matches: compare texts of like length,
    and with `references`, held-out texts, which share stock phrases with training without having been copied from it.

    Args:
        texts: at least one.
        training: the training texts, or an index of them made before, whose tokenizer then counts.
        references: held-out texts; their figures come as `reference`.
        order: of the n-grams of the share.
        tokenizer: as in `TrainingIndex`.
        chunk: texts matched at once; affects only memory.

    Returns:
        Memorisation. ValueError for no texts, an item that is not a str, an order or chunk below 1, or a tokenizer
        beside an index.
    """
    _check_texts("texts", texts)
    if references is not None:
        _check_texts("references", references)
    for name, value in (("order", order), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if isinstance(training, TrainingIndex):
        if tokenizer is not None:
            raise ValueError("tokenizer cannot be set here: set it in the TrainingIndex")
    else:
        training = TrainingIndex(training, tokenizer=tokenizer)
    reference = None if references is None else _measure(references, training, order, chunk, progress, None)
    return _measure(texts, training, order, chunk, progress, reference)


def _measure(
    texts: Sequence[str],
    index: TrainingIndex,
    order: int,
    chunk: int,
    progress: bool,
    reference: Memorisation | None,
) -> Memorisation:
    matches: list[np.ndarray] = []
    for start in tqdm(range(0, len(texts), chunk), desc="memorisation", disable=not progress):
        matches += index.match_lengths(texts[start : start + chunk])
    longest = [int(lengths.max(initial=0)) for lengths in matches]
    starts = [lengths[: max(len(lengths) - order + 1, 0)] for lengths in matches]
    share = [float((lengths >= order).mean()) if len(lengths) else None for lengths in starts]
    return Memorisation(longest, share, [len(lengths) for lengths in matches], order, reference)


def _splitter(tokenizer: "PreTrainedTokenizerBase | None") -> Callable[[Sequence[str]], list[list]]:
    if tokenizer is None:
        return lambda texts: [words(text) for text in texts]
    return lambda texts: tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _check_texts(name: str, texts: Any) -> None:
    if isinstance(texts, str) or len(texts) == 0 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name}={texts!r:.80} must be a list of at least one str")
