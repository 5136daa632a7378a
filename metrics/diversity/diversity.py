"""How diverse a set of texts is, beside a set of real ones: an `evaluate` measurement and plain functions.

`evaluate.load` copies this script out of its folder, and of the others the files that it imports itself. Only numpy is needed for
the figures.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .corpus import Corpus
from .intervals import bootstrap_intervals, half_sample_intervals, in_range, jackknife_interval, mask_of
from .words import Splitter, Tokenizer

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
    tokenizer (callable or str): how to split a text into words: "words" (default, at white space, lower case), "characters",
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

_NUM_DRAWS, _NUM_BLEU_DRAWS, _NUM_ARCHE_DRAWS = 1000, 200, 20  # out of a pool; the figures differ in what they cost
_ROUGH_BELOW = 100  # texts; with fewer, both kinds of interval are rough


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
    their references (`jackknife_interval`); for the others half-samples (see `half_sample_intervals`), because resampling
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
    split = Splitter.of(tokenizer)
    data = _check_texts("data", data, split)
    references = _check_references(references, len(data), split)
    if len(data) < _ROUGH_BELOW:
        warnings.warn(f"data has {len(data)} texts; below {_ROUGH_BELOW} the intervals are rough", stacklevel=2)
    own, other = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    estimates, intervals = Corpus.read(data, split).estimates_and_intervals(protocol, own)
    references_at_equal_n: dict[str, Any] = {}
    if references is not None:
        references_at_equal_n = _of_draws(Corpus.read(references, split), len(data), protocol, other)
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
    split = Splitter.of(tokenizer)
    texts = _check_texts("texts", texts, split)
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 2 <= number <= len(texts):
        raise ValueError(f"number={number!r} must be an integer from 2 to the number of texts, {len(texts)}")
    return _of_draws(Corpus.read(texts, split), int(number), protocol, np.random.default_rng(seed))


def diversity_differences(
    first: Sequence[str], second: Sequence[str], seed: int = 0, *, tokenizer: Tokenizer = "words"
) -> dict[str, dict[str, float]]:
    """Diversity of `first` minus that of `second`, two lists of as many texts, those at one place from the same prompt.

    Returns `estimate`, `low` and `high` (95 %) for each of `NAMES`. Means over texts: bootstrap over pairs; Self-BLEU:
    jackknife over groups of pairs; counts of distinct things: half-samples of pairs. Raises ValueError as `diversity` does, and for lists of unequal length.
    """
    split = Splitter.of(tokenizer)
    first, second = _check_texts("first", first, split), _check_texts("second", second, split)
    if len(first) != len(second):
        raise ValueError(
            f"first has {len(first)} texts and second {len(second)}: a difference needs equally many texts, in pairs"
        )
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]
    one, other = Corpus.read(first, split), Corpus.read(second, split)

    def distinct(chosen: np.ndarray) -> dict[str, float]:
        return _minus(one.distinct(chosen), other.distinct(chosen))

    estimates = distinct(np.ones(len(first), dtype=bool))
    stories = _minus(one.per_story("exact", streams[0]), other.per_story("exact", streams[0]))
    intervals = half_sample_intervals(distinct, len(first), estimates, streams[0], lowest=-1.0)
    intervals |= bootstrap_intervals(stories, streams[1])
    estimates |= {name: float(values.mean()) for name, values in stories.items()}
    intervals["self_bleu"] = jackknife_interval(
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
    split = Splitter.of(tokenizer)
    return Corpus.read(_check_texts("texts", texts, split), split).self_bleu()


def _of_draws(corpus: Corpus, number: int, protocol: str, rng: np.random.Generator) -> dict[str, Any]:
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
            values["self_bleu"].append(float(corpus.of(mask_of(drawn, size)).story_bleu(protocol, rng).mean()))
    found: dict[str, Any] = {name: float(np.mean(own)) for name, own in values.items()}
    found |= {name: float(by_story.mean()) for name, by_story in stories.items()}  # the mean over all draws there are
    if 2 * number <= size:
        wider = 1 / np.sqrt(1 - number / size)
        for name, own in values.items():
            below, above = (wider * float(end - found[name]) for end in np.percentile(own, [2.5, 97.5]))
            found[f"{name}_ci"] = in_range(name, found[name] + min(0.0, below), found[name] + max(0.0, above))
        return found
    one = corpus.of(mask_of(drawn, size))
    estimates, intervals = one.estimates_and_intervals(protocol, rng)
    for name in NAMES:
        low, high = (found[name] + float(end - estimates[name]) for end in intervals[name])
        found[f"{name}_ci"] = in_range(name, low, high)
    return found


def _num_distinct(by_text: list[np.ndarray], chosen: np.ndarray, num_kinds: int) -> int:
    seen = np.zeros(num_kinds, dtype=bool)
    seen[np.concatenate([by_text[index] for index in chosen])] = True
    return int(seen.sum())


def _check_references(references: Any, num_texts: int, split: Splitter) -> list[str] | None:
    if references is None:
        return None
    references = _check_texts("references", references, split)
    if len(references) < num_texts:
        raise ValueError(
            f"references has {len(references)} texts and data {num_texts}: figures are only comparable at equal numbers, so "
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


def _check_texts(name: str, texts: Any, split: Splitter) -> list[str]:
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
        split = Splitter.of(tokenizer)
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
