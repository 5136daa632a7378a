"""Which comparisons are decided: Holm's method against hand counts, p-values against scipy's, errors by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from arche_mdlm.studies.engine.readings.decisions import (
    Comparison,
    apart,
    decide,
    note,
    over_seeds,
    p_value,
    ratio_of_rates,
)
from arche_mdlm.studies.engine.readings.intervals import seeds_interval


def normal(z):
    """A difference of z standard errors."""
    return Comparison({"estimate": z, "low": z - 1.959964, "high": z + 1.959964})


def test_p_values_are_those_of_the_tests():
    values = np.array([0.3, 0.5, 0.9])
    assert p_value(over_seeds(seeds_interval(values)._asdict(), 3)) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue
    )
    assert p_value(normal(-1.3)) == pytest.approx(2 * stats.norm.sf(1.3), rel=1e-5)
    lopsided = Comparison({"estimate": 1.0, "low": 0.5, "high": 9.0})
    assert p_value(lopsided) == pytest.approx(2 * stats.norm.sf(1.959964 * 2), rel=1e-5)
    rates = [{"rates": [1.0, 1.1, 1.3]}, {"rates": [0.7, 0.9, 0.8]}]
    welch = stats.ttest_ind(*(np.log(own["rates"]) for own in rates), equal_var=False)
    assert p_value(ratio_of_rates(*rates)) == pytest.approx(welch.pvalue)


def test_without_an_interval_nothing_is_decided():
    one = {"estimate": 3.0, "low": None, "high": None}
    found = decide(
        {"a": Comparison(one), "b": Comparison(None), "c": Comparison({"estimate": 1.0, "low": 1.0, "high": 1.0})}
    )
    assert set(found.values()) == {0}
    assert ratio_of_rates({"rates": [1.0]}, {"rates": [1.0, 2.0]}).interval is None
    assert apart({"x": 1.0}, {"x": 2.0, "x_ci": [1.0, 3.0]}, "x").interval is None


def test_holms_method_by_hand():
    """p = .01, .02, .03 of three: .01 <= .05 / 3, .02 <= .05 / 2, .03 <= .05; of four with .04 the second fails, .02 > .05 / 3."""

    def comparisons(*p_values):
        return {p: normal(-float(stats.norm.isf(p / 2))) for p in p_values}

    assert decide(comparisons(0.03, 0.01, 0.02)) == {0.03: -1, 0.01: -1, 0.02: -1}
    assert decide(comparisons(0.04, 0.01, 0.02, 0.03)) == {0.04: 0, 0.01: -1, 0.02: 0, 0.03: 0}
    assert "Of 4 comparisons that this report looks at, 1 are decided" in note(
        decide(comparisons(0.04, 0.01, 0.02, 0.03))
    )


def test_two_intervals_decide_where_they_lie_apart():
    near, far = ({"x": 2.0, "x_ci": [1.0, 3.0]}, {"x": 4.1, "x_ci": [3.1, 5.1]})
    assert decide({"": apart(near, far, "x")}) == {"": -1}
    touching = {"x": 3.9, "x_ci": [2.9, 4.9]}
    assert decide({"": apart(near, touching, "x")}) == {"": 0}
    logs = apart({"x": math.e, "x_ci": [1.0, 9.0]}, {"x": 1.0, "x_ci": [0.5, 2.0]}, "x", log=True)
    assert logs.interval["estimate"] == pytest.approx(1)


def test_all_comparisons_together_err_in_at_most_five_of_a_hundred_reports():
    rng = np.random.default_rng(0)
    wrong = [any(decide({i: normal(z) for i, z in enumerate(rng.normal(size=20))}).values()) for _ in range(300)]
    assert sum(wrong) <= 0.05 * 300 + 2 * math.sqrt(300 * 0.05 * 0.95)
    alone = [any(decide({0: normal(z)}).values()) for z in rng.normal(size=1000)]
    assert 0.03 < np.mean(alone) < 0.07
