"""The study of two objectives, end to end on a tiny plan, and what its intervals decide."""

import json
import math

import pytest
from random_stories import write_stories

from arche_mdlm.commands.main import main
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


def test_bad_input(data, tmp_path, capsys):
    for study, extra, message in (("low-variance", ["--unique_tokens", "10"], "--unique_tokens 10"),):
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
