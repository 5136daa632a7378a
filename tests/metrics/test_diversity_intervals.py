"""Intervals of the diversity figures: their coverage and their width."""

import warnings

import numpy as np
import pytest
from diverse_texts import NAMES, stories

from arche_mdlm.metrics.diversity import (
    diversity,
    diversity_differences,
)

pytestmark = pytest.mark.filterwarnings("ignore:data has .* texts:UserWarning")


def test_equal_seeds_give_equal_results():
    texts, references = stories(120), stories(300, seed=1)
    first, again, other = (diversity(texts, references, protocol="arche", seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first["self_bleu_ci"] != other["self_bleu_ci"]
    assert first["distinct_2_reference"] != other["distinct_2_reference"]
    assert first["distinct_2"] == other["distinct_2"]


@pytest.mark.parametrize("count", [2, 3, 101, 200])
@pytest.mark.parametrize("protocol", ["exact", "arche"])
def test_intervals_hold_their_estimates_within_the_valid_range(count, protocol):
    result = diversity(stories(count, words=24), protocol=protocol)

    for name in NAMES:
        low, high = result[f"{name}_ci"]
        assert 0 <= low <= result[name] <= high, name
        assert name in ("vocabulary_size", "mean_words") or high <= 1, name


def test_an_interval_of_distinct_things_has_the_width_of_fresh_samples():
    """Openings drawn from a Zipf law: the spread over fresh samples against the one that half-samples tell."""
    rng = np.random.default_rng(0)

    def sample():
        return [f"w{number} tail" for number in rng.zipf(1.5, size=400)]

    fresh = np.std([len(set(sample())) / 400 for _ in range(400)])
    widths = []
    for seed in range(12):
        low, high = diversity(sample(), seed=seed)["distinct_openings_ci"]
        widths.append((high - low) / 2 / 1.96)

    assert 0.8 * fresh < np.mean(widths) < 1.25 * fresh


def markov_texts(rng, count):
    """Texts of a skewed Markov language: phrases come back in other texts, as in stories."""
    texts = []
    for _ in range(count):
        words = [min(int(rng.zipf(1.6)), 40)]
        for step in np.minimum(rng.zipf(1.7, size=rng.integers(10, 40)), 30):
            words.append((words[-1] * 7 + int(step)) % 50)
        texts.append(" ".join(map(str, words)))
    return texts


def test_the_interval_of_self_bleu_covers_fresh_sets_about_as_often_as_it_says():
    """95 %, between 90 and 100 % over 100 sets (a bootstrap of the texts' values: 89 %, and 0.86 of the spread)."""
    rng = np.random.default_rng(0)
    found = [diversity(markov_texts(rng, 60), seed=seed) for seed in range(100)]
    mean = np.mean([one["self_bleu"] for one in found])
    held = [one["self_bleu_ci"][0] <= mean <= one["self_bleu_ci"][1] for one in found]
    assert np.mean(held) >= 0.90
    half = np.mean([np.ptp(one["self_bleu_ci"]) for one in found]) / 2
    spread = np.std([one["self_bleu"] for one in found], ddof=1)
    assert 1.96 * spread * 0.95 < half < 1.96 * spread * 1.6


def test_differences_are_those_of_the_figures():
    first, second = stories(60), stories(60, seed=1, vocabulary=20)
    one, other = diversity(first), diversity(second)
    found = diversity_differences(first, second)
    assert list(found) == NAMES
    for name, interval in found.items():
        assert interval["estimate"] == pytest.approx(one[name] - other[name]), name
        assert interval["low"] <= interval["estimate"] <= interval["high"], name
    assert found["distinct_2"]["low"] > 0  # the second has a third of the words
    assert all(set(same.values()) == {0.0} for same in diversity_differences(first, first).values())
    with pytest.raises(ValueError, match="first has 60 texts and second 59"):
        diversity_differences(first, second[1:])


def test_an_interval_of_a_paired_difference_has_the_width_of_fresh_pairs():
    """Openings of two arms that have most of their prompt in common: pairing takes the prompts' noise out."""
    rng = np.random.default_rng(0)

    def sample():
        own = rng.zipf(1.5, size=400)
        changed = np.where(rng.random(400) < 0.2, rng.zipf(1.5, size=400), own)
        return [[f"w{number} tail" for number in numbers] for numbers in (own, changed)]

    def difference(first, second):
        return (len(set(first)) - len(set(second))) / 400

    fresh = np.std([difference(*sample()) for _ in range(400)])
    alone = np.std([len(set(sample()[0])) / 400 for _ in range(400)])
    widths = []
    for seed in range(12):
        found = diversity_differences(*sample(), seed=seed)["distinct_openings"]
        widths.append((found["high"] - found["low"]) / 2 / 1.96)
    assert 0.8 * fresh < np.mean(widths) < 1.25 * fresh
    assert np.mean(widths) < alone


def test_few_texts_give_a_warning():
    with pytest.warns(UserWarning, match="data has 99 texts.*rough"):
        diversity(stories(99))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diversity(stories(100))
