"""The study of few unique tokens, end to end on a tiny plan, and what its intervals decide."""

import json

import pytest
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.studies.data_limited import jobs as data_limited
from arche_mdlm.studies.data_limited.report import sentences as size_sentences


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


def test_only_what_an_interval_decides_is_said():
    def report(estimate, half):
        return {
            "sizes": {"1000": {"difference": {"estimate": estimate, "low": estimate - half, "high": estimate + half}}}
        }

    assert "is below tuned AR's best loss" in size_sentences(report(-0.3, 0.1))[0]
    assert "stays above" in size_sentences(report(0.3, 0.1))[0]
    assert size_sentences(report(0.3, 0.4)) == []
    assert size_sentences({"sizes": {"1000": {"difference": None}}}) == []
