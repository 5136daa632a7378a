"""95 % intervals of figures of a set of texts: half-samples for counts of distinct things, a jackknife for Self-BLEU, a bootstrap for means."""

from collections.abc import Callable

import numpy as np

_NUM_HALVES = 200
_NUM_RESAMPLES = 1000
_NUM_GROUPS = 30  # of the jackknife


def mask_of(chosen: np.ndarray, size: int) -> np.ndarray:
    """(size,) True at the indices `chosen`."""
    mask = np.zeros(size, dtype=bool)
    mask[chosen] = True
    return mask


def in_range(name: str, low: float, high: float, lowest: float = 0.0) -> tuple[float, float]:
    """An interval cut to what the figure can be: a share is at most 1, nothing is below `lowest`."""
    if name in ("vocabulary_size", "mean_words"):
        return (max(0.0, low) if lowest == 0 else low, high)
    return max(lowest, low), min(1.0, high)


def half_sample_intervals(
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
        intervals[name] = in_range(name, low, high, lowest)
    return intervals


def _influence(
    distinct: Callable[[np.ndarray], dict[str, float]], num_texts: int, size: int, rng: np.random.Generator
) -> dict[str, float]:
    """I of `half_sample_intervals` for samples of `size` texts; of the vocabulary per text, to make it a share too."""
    samples = []
    for _ in range(_NUM_HALVES):
        figures = distinct(mask_of(rng.choice(num_texts, size=size, replace=False), num_texts))
        samples.append(figures | {"vocabulary_size": figures["vocabulary_size"] / size})
    scale = np.sqrt(size / (1 - size / num_texts))
    return {name: scale * float(np.std([sample[name] for sample in samples], ddof=1)) for name in samples[0]}


def jackknife_interval(
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
    left = np.array([figure(~mask_of(group, num_texts)) for group in groups])
    freedom = len(groups) - 1
    deviation = np.sqrt(freedom / len(groups) * ((left - left.mean()) ** 2).sum())
    half = float(_student(freedom) * deviation)
    return max(lowest, estimate - half), min(1.0, estimate + half)


def _student(freedom: int) -> float:
    """Student's 97.5 % quantile, to 0.001 from 5 degrees of freedom on and too low below (Abramowitz and Stegun 26.7.5)."""
    z = 1.959964
    return float(z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2))


def bootstrap_intervals(stories: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of means over texts, resampled with replacement; widened to hold the mean itself.

    Not for exact Self-BLEU (`jackknife_interval`). That of `protocol="arche"` is taken as given for each candidate: what other
    texts to compare with would change is not in its interval, which is too narrow by a tenth or more.
    """
    intervals = {}
    for name, values in stories.items():
        means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_NUM_RESAMPLES)]
        low, high = np.percentile(means, [2.5, 97.5])
        intervals[name] = (float(min(low, values.mean())), float(max(high, values.mean())))
    return intervals
