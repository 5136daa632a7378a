"""What the controlled comparison says: which of its intervals become a sentence, and how the figures behind them are found."""

import math

import numpy as np
import pytest

from arche_mdlm.studies.controlled.conclusions import MAIN, conclusions, decided_sentences
from arche_mdlm.studies.controlled.matched import AT_BOUND
from arche_mdlm.studies.engine.readings.intervals import seeds_interval


def interval(estimate, half):
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def test_distances_hold_for_every_draw_of_held_out_stories():
    """At the mean of the stories the column is closer than AR; at one end of their spread it may not be."""
    from arche_mdlm.studies.controlled.summary import _distances

    def arm(*values):
        seeds = {str(seed): {"figures": {"mean_words": value}, "cut": {}} for seed, value in enumerate(values)}
        return {"samples": {MAIN: {"seeds": seeds}}}

    def than_base(low, high):
        reference = {"figures": {"mean_words": 100.0, "mean_words_ci": [low, high]}, "cut": {}}
        return _distances(arm(110.0, 110.5), arm(120.0, 120.5), reference)[MAIN]["mean_words"]["than_base"]

    near = than_base(98.0, 104.0)
    assert near["estimate"] == pytest.approx(-10)
    assert near["high"] < 0
    wide = than_base(60.0, 118.0)
    assert wide["estimate"] == pytest.approx(-10)
    assert wide["low"] < 0 < wide["high"]


def conclusions_report(likelihood, openings, seeds=(0, 1, 2), samples=100, best=8):
    arms = {name: {"training": {"0": {"best_step": best if name == "ar-seen" else 8, "steps": 8}},
                   "samples": {MAIN: {"mean": {"distinct_openings": {"estimate": share}}}}}
            for name, share in (("mdlm-nelbo", 0.5 + openings["estimate"]), ("ar-seen", 0.5))}  # fmt: skip
    own = {
        "likelihood": {"best": {"mean": likelihood}},
        "samples": {MAIN: {"distinct_openings": {"mean": openings}}},
    }
    return {
        "arms": arms,
        "differences": {"mdlm-nelbo": own},
        "settings": {"num_samples": samples},
        "seeds": list(seeds),
    }


def test_conclusions_claim_no_more_than_the_intervals():
    report = conclusions_report
    above = " ".join(conclusions(report(interval(0.5, 0.1), interval(0.01, 0.02))))
    assert "a bound alone cannot tell which" in above
    assert "diverse" not in above
    assert "Of 2 comparisons that this report looks at, 1 are decided" in above
    assert "MDLM 93.4%, AR 3.3%" in above
    assert "no run was past its best validation" in above
    below = " ".join(conclusions(report(interval(-0.5, 0.1), interval(0.47, 0.02), (0, 1, 2), 50, best=4)))
    assert "MDLM is the better density model" in below
    assert "more diverse than AR by openings" in below
    assert "ar-seen seed 0 had its best validation before" in below
    assert "50 texts a set" in below
    # Alone it would be decided (zero lies outside of the interval), as one of two it is not.
    both = " ".join(conclusions(report(interval(0.11, 0.1), interval(0.0, 0.1))))
    assert "1 are decided" not in both
    one = {"estimate": 0.3, "low": None, "high": None}
    for estimate in (-0.3, 0.3):
        said = " ".join(conclusions(report(one | {"estimate": estimate}, one | {"estimate": estimate}, (0,))))
        assert "**One seed**: there is no interval over seeds" in said
        for claim in ("holds zero", "better density model", "a bound alone", "more diverse", "less diverse"):
            assert claim not in said


def test_columns_without_text_are_in_no_sentence():
    report = conclusions_report(interval(-0.5, 0.01), interval(0.4, 0.01))
    assert decided_sentences(report)
    for column in ("mdlm-nelbo", "ar-seen"):
        assert decided_sentences(report | {"poor": {column: "worse than a bigram"}}) == []
    assert "ar-seen: worse than a bigram" in " ".join(
        conclusions(report | {"poor": {"ar-seen": "worse than a bigram"}})
    )


def equal_report(difference, run, poor=()):
    """MDLM beside an AR model at its bound, and far from the other."""
    report = conclusions_report(interval(0.5, 0.001), interval(0.3, 0.001))
    report["arms"][AT_BOUND] = {"training": {"0": {"best_step": 8, "steps": 8} | run}, "samples": {}}
    own = {"likelihood": {}, "samples": {MAIN: {"distinct_openings": {"mean": difference}}}}
    report["at_equal_fit"] = {AT_BOUND: {"column": "mdlm-nelbo", "differences": own, "distances": {}}}
    return report | {"poor": dict.fromkeys(poor, "short")}


def test_the_first_sentence_is_of_equal_fit():
    reached, far = {"stop_at_nats": 3.0, "best_nats": 2.9}, {"stop_at_nats": 3.0, "best_nats": 3.1}
    first, *rest = decided_sentences(equal_report(interval(-0.2, 0.001), reached))
    assert "at equal fit** (against `ar-at-bound`: AR stopped at MDLM's bound)" in first
    assert "less diverse by openings" in first
    assert any("more diverse than AR by openings" in line for line in rest)
    for other in (
        equal_report(interval(0.0, 0.1), reached),
        equal_report(interval(-0.2, 0.001), far),
        equal_report(interval(-0.2, 0.001), reached, poor=(AT_BOUND,)),
    ):
        assert not any("at equal fit" in line for line in decided_sentences(other))
    both = decided_sentences(equal_report(interval(-0.2, 0.001), reached, poor=("ar-seen",)))
    assert len(both) == 1  # the base says nothing, this comparison does not need it


def test_an_exact_likelihood_is_in_a_sentence_where_it_is_decided():
    for estimate, word in ((0.4, "worse"), (-0.4, "better"), (0.001, None)):
        report = conclusions_report(interval(0.0, 0.1), interval(0.0, 0.1))
        report["differences"]["mdlm-nelbo"]["exact"] = {"mean": interval(estimate, 0.01), "stories": 20}
        said = [line for line in decided_sentences(report) if "left to right" in line]
        assert bool(said) == (word is not None)
        assert word is None or f"{estimate:+.3f} nats a token" in said[0]
        assert word is None or f"MDLM is the {word} density model" in said[0]


def test_a_loose_bound_alone_is_no_reason_to_leave_a_column_out():
    from arche_mdlm.studies.controlled.summary import _why_poor

    bigram = {"nats_per_token": 3.0, "nats_per_token_exact": 3.1}

    def why(bound, exact=None):
        arm = {"likelihood": {"best": {"mean": {"nats_per_token": {"estimate": bound}}}},
               "samples": {MAIN: {"seeds": {"0": {"figures": {"median_words": 100}}}}}}  # fmt: skip
        return _why_poor(arm | ({"exact": {"mean": {"nats_per_token": {"estimate": exact}}}} if exact else {}), bigram)

    assert why(2.9) is None
    assert why(2.9, 3.5) is None
    assert "3.20 nats" in why(3.2)
    assert why(3.2, 3.05) is None
    assert "3.15 nats" in why(3.2, 3.15)
    assert "bigram's 3.10" in why(3.2, 3.15)


def test_where_nothing_differs_few_reports_say_that_something_does():
    rng = np.random.default_rng(0)
    figures = ("distinct_2", "distinct_4", "self_bleu", "vocabulary_size", "distinct_openings")

    def over_seeds():
        return {"mean": seeds_interval(rng.normal(size=3))._asdict()}

    def null():
        columns = [f"mdlm-{name}" for name in ("nelbo", "low_variance", "masked_mean")]
        own = {
            c: {"likelihood": {"best": over_seeds()}, "samples": {MAIN: {f: over_seeds() for f in figures}}}
            for c in columns
        }
        near = {c: {MAIN: {f: {"than_base": over_seeds()["mean"]} for f in figures}} for c in columns}
        return {
            "arms": dict.fromkeys([*columns, "ar-seen"], {}),
            "differences": own,
            "distances": near,
            "seeds": [0, 1, 2],
        }

    said = sum(bool(decided_sentences(null())) for _ in range(300))
    assert said <= 0.05 * 300 + 2 * math.sqrt(300 * 0.05 * 0.95)


def test_perplexity_at_equal_self_bleu_is_read_off_between_ar_s_points():
    from arche_mdlm.studies.controlled.conclusions import _at, _curve, _frontier, comparisons
    from arche_mdlm.studies.engine.readings.decisions import decide

    def arm(points, noise):
        return {"samples": {f"best, bos, {t}": {"seeds": {
            str(seed): {"figures": {"self_bleu": x, "generative_perplexity": y * math.exp(noise * (seed - 1))}} for seed in range(3)}}
            for t, (x, y) in points.items()}}  # fmt: skip

    def report(noise):
        arms = {
            "mdlm-nelbo": arm({"1.0": (0.2, 80.0), "1.3": (0.01, 900.0)}, noise),
            "ar-seen": arm({"1.0": (0.3, 10.0), "1.3": (0.1, 1000.0)}, 0.0),
        }
        return {"arms": arms, "differences": {}, "seeds": [0, 1, 2]}

    base = report(0.0)["arms"]["ar-seen"]
    assert _curve(base, "0")[0][0] == 0.1
    assert _at(_curve(base, "0"), 0.2) == pytest.approx(math.log(100))
    assert _at(_curve(base, "0"), 0.05) is None
    sure, unsure = report(0.001), report(1.0)
    (line,) = _frontier(sure, "mdlm-nelbo", decide(comparisons(sure)))
    assert "is 0.80 (0.80 to 0.80) at temperature 1.0." in line
    assert _frontier(unsure, "mdlm-nelbo", decide(comparisons(unsure))) == []
