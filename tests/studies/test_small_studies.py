"""The studies of few unique tokens and of two objectives, end to end on a tiny plan, and what their intervals decide."""

import json
import math

import pytest
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.studies.data_limited import jobs as data_limited
from arche_mdlm.studies.data_limited.report import sentences as size_sentences
from arche_mdlm.studies.low_variance import jobs as low_variance
from arche_mdlm.studies.low_variance.report import sentences as objective_sentences


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stories(tmp_path_factory.mktemp("data"), 300)


def run(study, data, output, *extra):
    return main(
        ["study", study, "--data", str(data), "--output", str(output), "--vocab_size", "270", "--context_length", "24",
         "--batch_size", "4", "--positions", "480", "--evaluations", "3", "--evaluation_rows", "4", "--seeds", "0", "1",
         "--workers", "0", "--threads", "1", "--set", "model.config.hidden_size=24", "--set", "model.config.intermediate_size=24",
         "--set", "model.config.num_hidden_layers=1", *extra]
    )  # fmt: skip


def test_two_objectives(data, tmp_path, capsys):
    assert run("low-variance", data, tmp_path / "out", "--unique_tokens", "2000") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert set(report["by_seed"]) == {"0", "1"}
    assert set(report["objectives"]) == {"nelbo", "low_variance"}
    own = report["by_seed"]["0"]
    last = {name: report["objectives"][name]["last"]["0"] for name in report["objectives"]}
    assert own["difference"] == pytest.approx(last["low_variance"] - last["nelbo"])
    assert own["log_ratio"] == pytest.approx(math.log(own["steps"]["low_variance"] / own["steps"]["nelbo"]))
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    capsys.readouterr()
    assert run("low-variance", data, tmp_path / "out", "--unique_tokens", "2000", "--dry_run") == 0
    assert "7 jobs, 7 of them done" in capsys.readouterr().out


def test_few_unique_tokens(data, tmp_path):
    extra = ("--unique_tokens", "1000", "2000", "--weight_decays", "0", "0.5", "--dropouts", "0.1", "--seeds", "0")
    assert run("data-limited", data, tmp_path, *extra) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["runs"]) == 2 * 3
    assert report["sizes"]["1000"]["seeds"]["0"]["chosen"]["dropout"] == 0.1
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Nothing: no interval decides it." in text
    assert "One seed" in text


def test_bad_input(data, tmp_path, capsys):
    for study, extra, message in (
        ("data-limited", ["--unique_tokens", "2000", "2000"], "unique_tokens=[2000, 2000]"),
        ("data-limited", ["--dropouts", "1"], "--dropouts 1"),
        ("low-variance", ["--unique_tokens", "10"], "--unique_tokens 10"),
    ):
        assert run(study, data, tmp_path / "x", *extra) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def history(first, second, train=1.0):
    """Of a training with these held-out losses on the two halves."""
    return {"history": [
        {"step": 10 * (i + 1), "tokens": 100,
         "parts": {"train": {"nats": train}, "held-out-a": {"nats": a}, "held-out-b": {"nats": b}}}
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ], "steps": 30, "tokens": 300, "seconds": 1.0, "parameters": 7, "device": "x", "versions": {}}  # fmt: skip


def test_ar_is_tuned_on_one_half_and_measured_on_the_other():
    about = {"size": 1000, "seed": 0, "subset": "subset-1000-s0"}
    settings = {"trainings": {
        "m": about | {"arm": "mdlm"},
        "ar1": about | {"arm": "ar", "weight_decay": 0.0, "dropout": 0.0},
        "ar2": about | {"arm": "ar", "weight_decay": 1.0, "dropout": 0.0},
    }}  # fmt: skip
    results = {
        "m": history([4, 3, 2], [4, 3, 2]),
        "ar1": history([3, 1, 5], [3, 2, 5]),
        "ar2": history([3, 3, 3], [3, 3, 1.5]),
    }
    results |= {"subset-1000-s0": {"tokens": 1000}}

    own = data_limited.summary(settings, results)["sizes"]["1000"]["seeds"]["0"]

    # On the first half the best is ar1 at step 20 (second half: 2), on the second ar2 at step 30 (first half: 3).
    assert own["ar"] == 2.5
    assert own["mdlm"] == 2
    assert own["difference"] == -0.5
    part = data_limited.summary(settings, {name: results[name] for name in ("m", "ar1")})
    assert part["sizes"]["1000"]["seeds"] == {}, "an AR that is tuned in part does not count"
    assert part["missing"] == ["ar2"]


def test_steps_to_an_equal_bound_are_paired_by_seed():
    trainings, results = {}, {}
    for seed, shift in ((0, 0.0), (1, 0.5), (2, -0.25)):
        for objective, losses in (("nelbo", [4, 3, 2]), ("low_variance", [3, 2, 1])):
            name = f"{objective}-{seed}"
            trainings[name] = {"objective": objective, "seed": seed, "subset": f"subset-{seed}"}
            results[name] = history([loss + shift for loss in losses], [loss + shift for loss in losses])
        results[f"subset-{seed}"] = {"tokens": 10}
    report = low_variance.summary({"trainings": trainings}, results)
    assert report["by_seed"]["1"]["bound"] == 2.5
    assert report["log_ratio"]["estimate"] == pytest.approx(math.log(20 / 30))
    said = objective_sentences(report)
    assert "needs fewer steps" in said[0]
    assert "ends at a lower bound" in said[1]


def test_only_what_an_interval_decides_is_said():
    def report(estimate, half):
        return {
            "sizes": {"1000": {"difference": {"estimate": estimate, "low": estimate - half, "high": estimate + half}}}
        }

    assert "is below tuned AR's best loss" in size_sentences(report(-0.3, 0.1))[0]
    assert "stays above" in size_sentences(report(0.3, 0.1))[0]
    assert size_sentences(report(0.3, 0.4)) == []
    assert size_sentences({"sizes": {"1000": {"difference": None}}}) == []
