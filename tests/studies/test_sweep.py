"""The sweep of training settings: its plan, its end, and what its intervals decide."""

import json

import numpy as np
import pytest
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.sweep.factors import FACTORS
from arche_mdlm.studies.sweep.plan import SweepSettings, build_plan
from arche_mdlm.studies.sweep.report import lowest, sentences


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stories(tmp_path_factory.mktemp("data"), 300)


def test_one_factor_at_a_time_differs_from_the_base(data):
    settings = SweepSettings(data=str(data), seeds=(0,), rates=(0.5, 1.0), decay_shares=(0.2, 0.5), batch_sizes=(8, 16))
    assert settings.points[0] == settings.base == {"rate": 1.0, "decay_share": 0.2, "batch_size": 16}
    assert all(sum(point[key] != settings.base[key] for key in FACTORS) == 1 for point in settings.points[1:])
    trainings = {job.name: job.settings["resolved"]["training"] for job in build_plan(settings) if "train" in job.name}
    assert len(trainings) == 2 * 4
    base, slow = (trainings[f"train-mdlm-{point}-3000000-s0"] for point in ("r1-d0.2-b16", "r0.5-d0.2-b16"))
    for rate in ("learning_rate", "muon_learning_rate"):
        assert slow[rate] == base[rate] / 2
    faster = SweepSettings(data=str(data), seeds=(0,), changes=("training.learning_rate=0.5",))
    rates = {
        job.settings["resolved"]["training"]["learning_rate"] for job in build_plan(faster) if "train-ar-r" in job.name
    }
    assert rates == {0.125, 0.25, 0.5, 1.0, 2.0}
    assert (base["schedule"], base["min_lr_ratio"]) == ("warmup_stable_decay", 0.0)
    small = trainings["train-ar-r1-d0.2-b8-3000000-s0"]
    assert small["batch_size"] == 8
    assert small["max_steps"] == pytest.approx(2 * base["max_steps"], rel=0.02)  # the same positions
    assert trainings["train-ar-r1-d0.5-b16-3000000-s0"]["decay_share"] == 0.5


def test_end_to_end(data, tmp_path, capsys):
    command = ["study", "sweep", "--data", str(data), "--output", str(tmp_path / "out"), "--vocab_size", "270", "--context_length", "24",
               "--unique_tokens", "2000", "--batch_size", "4", "--positions", "480", "--evaluations", "2", "--evaluation_rows", "4", "--seeds", "0",
               "--rates", "1", "4", "--decay_shares", "0.5", "--batch_sizes", "4", "--workers", "0", "--threads", "1",
               "--set", "model.config.hidden_size=24", "--set", "model.config.intermediate_size=24", "--set", "model.config.num_hidden_layers=1"]  # fmt: skip
    assert main(command) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    runs = report["runs"]
    assert len(runs) == 4
    losses = {name: run["last"] for name, run in runs.items()}
    own = report["arms"]["ar"]["rate"]["4"]
    assert own["loss"]["estimate"] == losses["train-ar-r4-d0.5-b4-2000-s0"]
    expected = losses["train-ar-r4-d0.5-b4-2000-s0"] - losses["train-ar-r1-d0.5-b4-2000-s0"]
    assert own["difference"]["estimate"] == pytest.approx(expected)
    assert report["arms"]["ar"]["rate"]["1"]["difference"]["estimate"] == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "One seed: no interval, and nothing is decided." in text
    assert "| learning rates, times those of the preset | 1 (base) |" in text
    assert "rows a batch |" not in text, "it has one value"
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main([*command, "--dry_run"]) == 0
    assert "6 jobs, 6 of them done" in capsys.readouterr().out


def test_bad_settings(data):
    for changes, message in (
        ({"rates": (0.5, 2.0)}, r"rates=\[0.5, 2.0\] must contain 1.0"),
        ({"batch_sizes": (8,)}, r"batch_sizes=\[8\] must contain 16"),
        ({"decay_shares": (0.2, 1.0)}, r"decay_shares=\[0.2, 1.0\] must be different numbers above 0 and below 1"),
        ({"rates": (1.0, 1.0)}, "must be different numbers above 0"),
        ({"changes": ("training.decay_share=0.3",)}, "training.decay_share is set by the sweep"),
        ({"batch_sizes": (16, 100_000)}, "fewer than evaluations=20"),
    ):
        with pytest.raises(ValueError, match=message):
            SweepSettings(data=str(data), **changes)


def reading(differences: dict[str, dict], seeds: int = 5) -> dict:
    """Of AR's rates, beside the base."""
    own = {value: {"loss": {"estimate": 3 + one["estimate"], "low": None, "high": None}, "difference": one, "seeds": seeds}
           for value, one in differences.items()}  # fmt: skip
    empty: dict = {factor: {} for factor in FACTORS}
    base = {"rate": 1.0, "decay_share": 0.2, "batch_size": 16}
    return {"arms": {"ar": empty | {"rate": own}, "mdlm": empty}, "base": base}


def around(estimate: float, half: float) -> dict:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def test_what_is_said():
    same = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    said = sentences(reading({"0.5": around(-0.3, 0.1), "1": same, "2": around(0.3, 0.31)}))
    assert len(said) == 1
    assert "0.5 is better than the base" in said[0]
    at_end = lowest(reading({"0.5": around(-0.3, 0.1), "1": same, "2": around(0.3, 0.1)}))
    assert "lowest mean at 0.5" in at_end[0]
    assert "an end of the range" in at_end[0]
    inside = lowest(reading({"0.5": around(0.1, 0.1), "1": same, "2": around(0.3, 0.1)}))
    assert "end of the range" not in inside[0]


def test_where_nothing_differs_few_reports_say_that_something_does():
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(300):
        said += bool(sentences(reading({str(2.0**i): over_seeds(rng.normal(size=5)) for i in range(1, 7)})))
    assert said <= 0.05 * 300 + 2 * (300 * 0.05 * 0.95) ** 0.5
