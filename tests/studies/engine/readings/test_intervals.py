"""Intervals contain their estimate, and the true value of simulated data as often as promised."""

import numpy as np
import pytest

from arche_mdlm.studies.engine.readings.intervals import (
    mean_interval,
    paired_interval,
    ratio_interval,
    seeds_interval,
)


def covered(interval_of, draw, truth: float, trials: int) -> float:
    """Share of simulated data sets whose interval holds `truth`."""
    held = 0
    for trial in range(trials):
        interval = interval_of(draw(np.random.default_rng(trial)))
        assert interval.low <= interval.estimate <= interval.high
        held += interval.low <= truth <= interval.high
    return held / trials


def test_coverage_over_stories():
    def draw(rng):
        return rng.exponential(2.0, size=60)

    share = covered(lambda values: mean_interval(values, resamples=300), draw, 2.0, 200)
    assert 0.88 <= share <= 0.98


def test_coverage_of_a_ratio():
    def draw(rng):
        lengths = rng.integers(20, 200, size=60)
        return lengths * 3.0 + rng.normal(0, 30, size=60), lengths

    share = covered(lambda pair: ratio_interval(*pair, resamples=300), draw, 3.0, 200)
    assert 0.88 <= share <= 0.98


def test_coverage_over_three_seeds():
    assert 0.93 <= covered(seeds_interval, lambda rng: rng.normal(1.0, 0.3, size=3), 1.0, 1000) <= 0.97


def test_pairs_by_prompt_are_much_narrower():
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 5, size=200)  # what a prompt makes easy or hard for both
    first, second = prompts + rng.normal(0.5, 0.5, 200), prompts + rng.normal(0, 0.5, 200)
    paired = paired_interval(first, second)
    assert 0 < paired.low < 0.5 < paired.high
    assert paired.high - paired.low < 0.2 * (mean_interval(first).high - mean_interval(first).low)


def test_quantiles_are_students():
    """A table's 97.5 % quantiles for 1, 2, 9 and 120 degrees of freedom."""
    for freedom, quantile in ((1, 12.706), (2, 4.303), (9, 2.262), (120, 1.980)):
        values = np.random.default_rng(freedom).normal(size=freedom + 1)
        interval = seeds_interval(values)
        half = quantile * values.std(ddof=1) / np.sqrt(freedom + 1)
        assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=3e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0]), r"values of shape \(1,\)"),
        (lambda: seeds_interval([1.0]), r"estimates of shape \(1,\)"),
        (lambda: ratio_interval([1.0, 2.0], [1.0, 2.0, 3.0]), "weights: 3 for 2 values"),
        (lambda: paired_interval([1.0, 2.0], [1.0, 2.0, 3.0]), "paired values need the same prompts"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
