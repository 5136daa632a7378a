"""Small trainings on subsets: the subset, the statistics of their curves, and the study of overfitting end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small import subsets
from arche_mdlm.studies.engine.small.curves import Curve, steps_to
from arche_mdlm.studies.overfitting.report import sentences


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stories(tmp_path_factory.mktemp("data"), 400)


def settings_of(data, **changes):
    own = {
        "data": str(data),
        "validation_data": None,
        "vocab_size": 270,
        "evaluation_rows": 8,
        "unique_tokens": 3000,
        "seed": 0,
    }
    return own | changes


def stories(folder, part):
    return [json.loads(line)["text"] for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def test_a_subset_is_random_of_the_asked_size_and_apart_from_the_held_out_stories(data, tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        found = subsets.subset(settings_of(data, seed=seed), {}, tmp_path / str(seed))
        assert 0.8 * 3000 < found["tokens"] < 1.1 * 3000
    parts = [stories(tmp_path / "0", part) for part in ("train", *subsets.HALVES)]
    assert len(parts[1]) == len(parts[2]) == 8
    assert len(set().union(*parts)) == sum(map(len, parts))
    assert set(parts[0]) != set(stories(tmp_path / "1", "train"))


def test_subsets_that_cannot_be(data, tmp_path):
    with pytest.raises(ValueError, match="unique_tokens=1000000 is more than"):
        subsets.subset(settings_of(data, unique_tokens=1_000_000), {}, tmp_path)
    with pytest.raises(ValueError, match="two halves need 800 held-out stories"):
        subsets.subset(settings_of(data, evaluation_rows=400), {}, tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.jsonl"):
        subsets.subset(settings_of(data, validation_data=str(empty)), {}, tmp_path)


def curve(held_out, train=None):
    values = np.asarray(held_out, dtype=float)
    steps = [10 * (index + 1) for index in range(values.shape[-1])]
    halves = values if values.ndim == 2 else np.stack([values, values])
    return Curve(steps, steps, halves[0] if train is None else np.asarray(train), halves)


def test_figures_of_a_curve():
    overfit = curve([3, 2, 1, 1.5], train=[3, 2, 0.5, 0.25])
    assert (overfit.rise(), overfit.late_gain(), overfit.gap(), overfit.best()) == (0.5, -0.5, 1.25, 2)
    falling = curve([4, 3, 2, 1])
    assert (falling.rise(), falling.late_gain()) == (0, 1)
    assert steps_to(falling, 2.5) == pytest.approx((20 * 30) ** 0.5)
    assert steps_to(falling, 0.5) is None


def test_the_rise_is_not_biased_by_the_least_of_many_noisy_values():
    """A flat curve with noise has none; taking the minimum on the same stories would find one."""
    rng = np.random.default_rng(0)
    curves = [curve(rng.normal(size=(2, 20))) for _ in range(2000)]
    naive = np.mean([c.held_out[-1] - c.held_out.min() for c in curves])
    crossed = over_seeds([c.rise() for c in curves])
    assert naive > 1
    # The last one is compared with itself where it is the best: that adds no bias.
    assert crossed["low"] < 0 < crossed["high"]


def reading(ar, mdlm, gain, difference, seeds=5):
    means = {"ar": {"rise": ar, "late_gain": interval(0, 1)}, "mdlm": {"rise": mdlm, "late_gain": gain}}
    arms = {arm: {"means": own} for arm, own in means.items()}
    return {"arms": arms, "differences": {"rise": difference}, "settings": {"seeds": list(range(seeds))}}


def interval(estimate, half):
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def test_what_is_said_is_what_an_interval_decides():
    said = sentences(reading(interval(0.3, 0.1), interval(0.0, 0.05), interval(0.2, 0.1), interval(-0.3, 0.1)))
    assert said[0].startswith("AR overfits")
    assert said[-1].startswith("So the claim holds")
    open_ = reading(interval(0.3, 0.1), interval(0.0, 0.05), interval(0.2, 0.1), interval(-0.3, 0.4))
    assert not [line for line in sentences(open_) if line.startswith("So the claim holds")], "MDLM may overfit as much"
    assert sentences(reading(interval(0.3, 0.4), interval(0.0, 0.05), interval(0.0, 0.1), interval(-0.3, 0.4))) == []
    nearly = interval(0.3, 0.29)
    assert sentences(reading(nearly, interval(0.0, 0.05), interval(0.0, 0.1), interval(0.0, 0.4))) == [], (
        "one interval of five"
    )
    one = {"estimate": 0.3, "low": None, "high": None}
    assert sentences(reading(one, one, one, one, seeds=1)) == []


def test_where_nothing_differs_few_reports_say_that_something_does():
    rng = np.random.default_rng(0)
    said = sum(bool(sentences(reading(*(over_seeds(rng.normal(size=5)) for _ in range(4))))) for _ in range(300))
    assert said <= 0.05 * 300 + 2 * (300 * 0.05 * 0.95) ** 0.5


def run(data, output, *extra):
    return main(
        ["study", "overfitting", "--data", str(data), "--output", str(output), "--unique_tokens", "2000", "--vocab_size", "270",
         "--context_length", "24", "--batch_size", "4", "--positions", "960", "--evaluations", "5", "--evaluation_rows", "6",
         "--seeds", "0", "1", "--workers", "0", "--threads", "1", "--set", "model.config.hidden_size=24",
         "--set", "model.config.intermediate_size=24", "--set", "model.config.num_hidden_layers=1", *extra]
    )  # fmt: skip


def test_report_and_resume(data, tmp_path, monkeypatch):
    """Interrupted within trainings, the study ends with the same figures."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(data, whole) == 0
    real, calls = subsets.PartsEvaluator.__call__, []

    def stopped(self, *args):
        calls.append(args)
        if len(calls) in (2, 9):
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(subsets.PartsEvaluator, "__call__", stopped)
    assert [run(data, cut) for _ in range(3)] == [130, 130, 0]
    report, again = (json.loads((root / "report.json").read_text()) for root in (whole, cut))
    assert len(calls) < 2 * 4 * 5
    for arm, own in report["arms"].items():
        assert own["bands"] == again["arms"][arm]["bands"]
        assert len(own["steps"]) == 5
        assert own["seeds"]["0"]["parameters"] == report["arms"]["ar"]["seeds"]["0"]["parameters"]
        assert own["bands"]["held_out"][-1]["estimate"] < own["bands"]["held_out"][0]["estimate"]
    text = (whole / "report.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text + json.dumps(report)
    assert not [word for word in stories(next(whole.glob("jobs/subset-*")), "train") if word in text], (
        "no text of the data"
    )
    assert (whole / "curves.png").stat().st_size > 10_000
    assert Path(whole / "report.json").is_file()


def test_one_seed_decides_nothing(data, tmp_path):
    assert run(data, tmp_path / "out", "--seeds", "3", "--publish", str(tmp_path / "page")) == 0
    assert "Nothing: no interval decides it." in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.glob("page*")} == {
        "page",
        "page.md",
        "page.json",
    }  # there are no texts behind it


def test_bad_input(data, tmp_path, capsys):
    for extra, message in (
        (["--seeds", "1", "1"], "seeds=[1, 1]"),
        (["--positions", "100"], "positions=100"),
        (["--evaluation_draws", "1"], "--evaluation_draws 1"),
        (["--data", str(tmp_path / "no.jsonl")], "no.jsonl"),
    ):
        assert run(data, tmp_path / "x", *extra) == 2
        assert message in capsys.readouterr().err
