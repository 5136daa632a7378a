"""The interpolated bigram: sums to one, equal to hand counts, near the entropy of a Markov language."""

import math

import numpy as np
import pytest

from arche_mdlm.metrics.tokens.bigram import fit_bigram


def markov(rng, table, number, length=20):
    """Rows of ids that begin with 0."""
    rows = []
    for _ in range(number):
        row = [0]
        for _ in range(length):
            row.append(int(rng.choice(len(table), p=table[row[-1]])))
        rows.append(row)
    return rows


def test_it_sums_to_one_behind_every_token():
    model = fit_bigram([[0, 1, 2, 1], [0, 2, 1], [0, 1, 1, 3]], 6)
    for before in range(6):
        nats = model.story_nats([[before, after] for after in range(6)])
        assert sum(math.exp(-value) for value in nats) == pytest.approx(1)
    assert 0 < model.weight < 1


def test_probabilities_by_hand():
    rows = [[0, 1, 2], [0, 1, 1], [0, 2, 1]]
    model = fit_bigram(rows, 4)
    unigram = 0.999 * 4 / 6 + 0.001 / 4  # of the six tokens behind a BOS, four are 1
    expected = model.weight * 2 / 3 + (1 - model.weight) * unigram  # two of three stories begin with 1
    assert math.exp(-model.story_nats([[0, 1]])[0]) == pytest.approx(expected)
    assert model.nats_per_token([[0, 1]]) == pytest.approx(-math.log(expected))
    assert math.exp(-model.story_nats([[3, 1]])[0]) == pytest.approx(unigram)  # nothing is known behind 3


def test_it_comes_near_the_entropy_of_a_markov_language_and_not_below():
    rng = np.random.default_rng(1)
    table = rng.dirichlet(np.full(5, 0.5), size=5)
    model = fit_bigram(markov(rng, table, 400), 5)
    fresh = markov(rng, table, 400)
    entropy = np.mean([-math.log(table[a][b]) for row in fresh for a, b in zip(row, row[1:], strict=False)])
    assert entropy < model.nats_per_token(fresh) < entropy + 0.02
    assert model.weight > 0.9
    alike = markov(rng, np.full((50, 50), 0.02), 40)
    assert fit_bigram(alike, 50).weight < 0.5, "where neighbours say nothing, and pairs are seldom seen"


def test_bad_input():
    with pytest.raises(ValueError, match="rows has 1 stories"):
        fit_bigram([[0, 1]], 3)
    with pytest.raises(ValueError, match="vocab_size=2"):
        fit_bigram([[0, 1], [0, 2]], 2)
