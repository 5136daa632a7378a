"""The study of two objectives: from one start a seed, each at its best rate, and what its intervals decide."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.estimates import operations_per_second, parameters
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.low_variance import jobs
from arche_mdlm.studies.low_variance.conclusions import decided_sentences, sentences
from arche_mdlm.studies.low_variance.jobs import summary
from arche_mdlm.studies.low_variance.plan import LowVarianceSettings, build_plan
from arche_mdlm.studies.low_variance.report import FILES, _sections, draw
from arche_mdlm.training.files.own_files import OutputFolder
from arche_mdlm.training.loop.trainer import TrainingDiverged
from arche_mdlm.training.models.loading import load_arm

TINY = ("--unique_tokens", "2000", "--vocab_size", "270", "--context_length", "24", "--batch_size", "4", "--positions", "480",
        "--start_positions", "960", "--evaluations", "3", "--evaluation_rows", "4", "--seeds", "0", "1", "--workers", "0",
        "--threads", "1", "--set", "model.config.hidden_size=24", "--set", "model.config.intermediate_size=24",
        "--set", "model.config.num_hidden_layers=1")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stories(tmp_path_factory.mktemp("data"), 300)


def run(data, output, *extra):
    return main(["study", "low-variance", "--data", str(data), "--output", str(output), *TINY, *extra])


def weights(folder, name):
    found = max(folder.glob(f"jobs/{name}-*/run/checkpoint-*"))  # the last one
    return load_arm(found)[0].state_dict()


def result(folder, name):
    (found,) = folder.glob(f"jobs/{name}-*/result.json")
    return json.loads(found.read_text(encoding="utf-8"))["result"]


def test_the_trainings_of_a_seed_begin_at_its_start(data, tmp_path, capsys):
    """At a rate of nearly nothing they end where they began."""
    still = ("--rates", "1e-9", "--plateau_margin", "0")
    assert run(data, tmp_path, *still) == 0
    starts = [weights(tmp_path, f"train-start-2000-s{seed}") for seed in (0, 1)]
    embedding = next(name for name in starts[0] if "embed" in name)
    assert not torch.allclose(starts[0][embedding], starts[1][embedding], atol=1e-3)
    for seed, start in enumerate(starts):
        bound = np.mean([
            part["nats"] for name, part in result(tmp_path, f"train-start-2000-s{seed}")["history"][-1]["parts"].items()
            if name != "train"
        ])  # fmt: skip
        for objective in ("nelbo", "low_variance"):
            own = weights(tmp_path, f"train-{objective}-x1e-09-2000-s{seed}")
            assert own.keys() == start.keys()
            assert all(torch.allclose(own[name], start[name], atol=1e-6) for name in start)
            last = result(tmp_path, f"train-{objective}-x1e-09-2000-s{seed}")["history"][-1]
            assert last["validation_nats"] == pytest.approx(bound, abs=1e-4)
    capsys.readouterr()
    assert run(data, tmp_path, *still, "--dry_run") == 0
    assert "9 jobs, 9 of them done" in capsys.readouterr().out


def test_report(data, tmp_path):
    """Ten steps of training are on the plateau: all is measured, and nothing said."""
    assert run(data, tmp_path, "--rates", "0.5", "2", "--clip_norm", "1e-3", "--seeds", "0") == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(report["by_seed"]) == set(report["poor"]) == {"0"}
    assert "log_ratio" not in report
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "on the plateau" in text
    assert "| 0 † |" in text
    assert "Nothing: no interval decides it." in text
    assert report["clipping"]["binding"] == report["clipping"]["windows"] == 3 * (2 * 2 + 1)
    for way in report["by_seed"]["0"]["ways"]:  # the masks are the same, so a step costs the same
        assert way["log_ratio"] == pytest.approx(math.log(way["steps"]["low_variance"] / way["steps"]["nelbo"]))
    assert len(report["runs"]) == 2 * 2
    nelbo, low = (result(tmp_path, f"train-{name}-x2-2000-s0") for name in ("nelbo", "low_variance"))
    assert [e["tokens"] for e in nelbo["history"] if "tokens" in e] == [
        e["tokens"] for e in low["history"] if "tokens" in e
    ]
    assert nelbo["history"][-1]["validation_nats"] != low["history"][-1]["validation_nats"]


def test_the_unigram_s_nats(tmp_path, monkeypatch):
    """Of two tokens in shares of 3/4 and 1/4, on rows that have them in these shares, it is their entropy."""
    rows = {"train": [[9, 1, 1, 1, 2]] * 40, "held-out-a": [[9, 1, 2]], "held-out-b": [[9, 1, 1]]}

    class Rows(list):
        def __getitem__(self, key):
            return {"input_ids": list(self)} if key == slice(None) else list.__getitem__(self, key)

    monkeypatch.setattr(jobs, "train", lambda *args: {"steps": 1})
    monkeypatch.setattr(jobs, "tokenizer_of", lambda inputs: range(10))
    monkeypatch.setattr(jobs, "rows_of", lambda part, *rest: Rows(rows[part]))
    monkeypatch.setattr(jobs, "evaluated_rows", lambda part, *rest: rows[part])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert jobs.start({}, {}, tmp_path)["unigram"] == pytest.approx(entropy, abs=2e-3)  # 0.1 % is the uniform law's


def test_a_rate_that_is_too_high_is_no_failure(tmp_path, monkeypatch):
    def train(*args):
        raise TrainingDiverged("loss is nan")

    monkeypatch.setattr(jobs, "train", train)
    assert jobs.go_on({}, {}, tmp_path) == {"diverged": "loss is nan"}


# ------------------------------------------------------------------ the summary, of made results


def history(first, second, gflop=1.0, norm=0.5):
    """Of a training with these bounds on the two halves, at every tenth step; `gflop`: of a step."""
    entries = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        parts = {"train": {"nats": 1.0}, "held-out-a": {"nats": a}, "held-out-b": {"nats": b}}
        entries += [{"step": 10 * (i + 1), "tokens": 100, "seconds": 2.0, "tflop_per_second": 5e-3 * gflop, "grad_norm": norm},
                    {"step": 10 * (i + 1), "parts": parts}]  # fmt: skip
    return {"history": entries, "steps": 10 * len(first), "tokens": 300, "seconds": 1.0, "parameters": 7, "device": "x", "versions": {}}  # fmt: skip


def made(seeds, margin=0.5):
    """Settings and results: by seed the start's bound (the unigram has 5 nats), and trainings by objective and rate."""
    settings = {"trainings": {}, "starts": {}, "plateau_margin": margin, "clip_norm": 1.0}
    results = {}
    for seed, (bound, trainings) in seeds.items():
        settings["starts"][str(seed)] = f"start-{seed}"
        results |= {
            f"start-{seed}": history([6, bound], [6, bound]) | {"unigram": 5.0},
            f"subset-{seed}": {"tokens": 10},
        }
        for (objective, rate), own in trainings.items():
            name = f"{objective}-{rate}-{seed}"
            settings["trainings"][name] = {
                "objective": objective,
                "rate": rate,
                "seed": seed,
                "subset": f"subset-{seed}",
            }
            results[name] = own
    return settings, results


def test_flops_to_an_equal_bound():
    """Both halves alike: nelbo comes to 2 at step 30, low_variance, at its better rate, at step 20."""
    seeds = {
        seed: (4.0, {("nelbo", 1.0): history([4, 3, 2], [4, 3, 2]), ("low_variance", 1.0): history([3, 2, 1 - noise], [3, 2, 1 - noise]),
                     ("low_variance", 2.0): history([4, 4, 4], [4, 4, 4])})
        for seed, noise in enumerate((0.0, 0.1, 0.2))
    }  # fmt: skip
    report = summary(*made(seeds))
    way = report["by_seed"]["1"]["ways"][0]
    assert way["rates"] == {"nelbo": 1.0, "low_variance": 1.0}
    assert (way["bound"], way["steps"]) == (2, {"nelbo": pytest.approx(30), "low_variance": pytest.approx(20)})
    assert report["log_ratio"]["estimate"] == pytest.approx(math.log(20 / 30))
    assert report["log_ratio_with_start"]["estimate"] == pytest.approx(
        math.log((20 + 20) / (20 + 30))
    )  # the start: 20 steps
    assert report["difference"]["estimate"] == pytest.approx(-1.1)
    assert report["rates"]["low_variance"]["1.0"]["chosen"] == 6
    assert report["rates"]["low_variance"]["2.0"]["last"]["estimate"] == 4
    assert report["rates"]["nelbo"]["1.0"]["step_flops"] == pytest.approx(1e9)
    assert report["clipping"] == {"windows": 3 * (2 + 9), "binding": 0, "largest": 0.5}


def test_the_picture(tmp_path):
    own = {("nelbo", 1.0): history([4, 3, 2], [4, 3, 2]), ("low_variance", 1.0): {"diverged": "loss is nan"},
           ("low_variance", 2.0): history([3, 2, 1], [3, 2, 1])}  # fmt: skip
    assert list(draw(summary(*made({0: (4.0, own)})), OutputFolder(tmp_path, FILES))) == ["curves.png"]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert draw(summary(*made({0: (4.9, own)})), OutputFolder(tmp_path, FILES)) == {}


def test_flops_are_counted_where_a_step_costs_one_objective_more():
    own = {
        ("nelbo", 1.0): history([4, 3, 2], [4, 3, 2]),
        ("low_variance", 1.0): history([3, 2, 1], [3, 2, 1], gflop=3.0),
    }
    report = summary(*made({0: (4.0, own)}))
    assert report["by_seed"]["0"]["log_ratio"] == pytest.approx(math.log(20 * 3 / 30))
    assert report["by_seed"]["0"]["log_ratio_with_start"] == pytest.approx(math.log((20 + 60) / (20 + 30)))


def test_a_rate_is_chosen_on_one_half_and_measured_on_the_other():
    own = {("nelbo", 1.0): history([4, 3, 2], [4, 3, 2]),
           ("low_variance", 1.0): history([4, 3, 1.5], [4, 3, 2.5]), ("low_variance", 2.0): history([4, 3, 3], [4, 3, 1])}  # fmt: skip
    pair = summary(*made({0: (4.0, own)}))["by_seed"]["0"]
    # On the first half rate 1 is best (1.5), and has 2.5 on the second; on the second rate 2 (1), and has 3 on the first.
    assert [way["rates"]["low_variance"] for way in pair["ways"]] == [1.0, 2.0]
    assert [way["last"]["low_variance"] for way in pair["ways"]] == [2.5, 3]
    assert pair["difference"] == (0.5 + 1) / 2


def test_tries_of_noise_do_not_look_better_than_they_are():
    """Of one objective three rates that do not differ, of the other one: neither ends lower on the mean."""
    rng = np.random.default_rng(0)

    def noisy():
        return history(*rng.normal(3, 0.1, (2, 4)))

    own = {seed: (4.0, {("nelbo", 1.0): noisy(), **{("low_variance", rate): noisy() for rate in (0.5, 1.0, 2.0)}}) for seed in range(400)}  # fmt: skip
    report = summary(*made(own))
    assert report["difference"]["low"] < 0 < report["difference"]["high"]


def test_a_start_on_the_plateau_is_marked_and_left_out():
    same = {("nelbo", 1.0): history([3, 2], [3, 2]), ("low_variance", 1.0): history([3, 1], [3, 1])}
    report = summary(*made({0: (4.4, same), 1: (4.6, same), 2: (4.4, same)}))  # the unigram: 5, the margin: 0.5
    assert set(report["poor"]) == {"1"}
    assert "4.600 nats a token, is not 0.5 below the unigram's 5.000" in report["poor"]["1"]
    assert set(report["by_seed"]) == {"0", "1", "2"}
    assert report["rates"]["nelbo"]["1.0"]["chosen"] == 4
    assert report["log_ratio"]["low"] == pytest.approx(report["log_ratio"]["estimate"])  # of two equal seeds


def test_what_diverged_is_never_best_and_what_is_missing_leaves_its_seed_out():
    good, bad = history([3, 2], [3, 2]), {"diverged": "loss is nan"}
    own = {("nelbo", 1.0): good, ("nelbo", 2.0): bad, ("low_variance", 1.0): good}
    settings, results = made({0: (4.0, own), 1: (4.0, own | {("low_variance", 1.0): bad}), 2: (4.0, own)})
    del results["nelbo-1.0-2"]
    report = summary(settings, results)
    assert set(report["by_seed"]) == {"0"}
    assert report["poor"] == {"1": "every training by low_variance diverged"}
    assert report["missing"] == ["nelbo-1.0-2"]
    assert report["rates"]["nelbo"]["2.0"]["diverged"] == 1
    assert "low_variance-1.0-1" in report["diverged"]
    whole = {
        "settings": {**vars(LowVarianceSettings(data="x"))},
        "failed": {},
        "command": "",
        "data_hash": "",
        "training_commands": {},
    }
    assert "1 †" in "\n".join(_sections(report | whole, {}))


# ------------------------------------------------------------------ sentences


def of(log_ratios, differences):
    seeds = {str(seed): {} for seed in range(len(log_ratios))}
    return {"by_seed": seeds, "poor": {}, "log_ratio": over_seeds(log_ratios), "difference": over_seeds(differences)}


def test_the_verdict_compares_the_ratio_with_1_and_with_the_paper_s():
    near = [math.log(0.88) + e for e in (-0.01, 0.01, -0.02, 0.02, 0.0)]
    said = sentences(of(near, [0.1, -0.1, 0.2, -0.2, 0.0]))
    assert said[0].startswith("`low_variance` needs fewer FLOPs than `nelbo` to an equal bound: 0.880 (")
    assert "1, no difference, is outside of it; the paper's 0.88 is within this interval." in said[1]
    assert said[-1].startswith("Of 3 comparisons")
    one = [-0.01, 0.01, -0.02, 0.02, 0.0]
    said = sentences(of(one, [0.1, 0.12, 0.11, 0.1, 0.12]))
    assert said[0].startswith("The paper's ratio of 0.88 does not hold here: ours is higher, 1.000 (")
    assert "ends at a higher bound" in said[1]
    assert "1, no difference, is within this interval; the paper's 0.88 is outside of it." in said[2]
    wide = sentences(of([-0.5, 0.3, 0.4, -0.4, 0.0], [0.1, -0.1, 0.2, -0.2, 0.0]))
    assert len(wide) == 2
    assert wide[0].count("within this interval") == 2
    assert sentences(of([-0.1], [0.1])) == []


def test_where_nothing_differs_few_reports_say_that_something_does():
    """The ratio is the paper's, or 1, and the bounds are equal: what is said beside the one comparison that does differ is wrong."""
    rng = np.random.default_rng(0)
    for truth, right in ((0.0, "The paper's ratio"), (math.log(0.88), "`low_variance` needs fewer")):
        said = [
            decided_sentences(of(rng.normal(truth, 0.1, 11).tolist(), rng.normal(0, 0.02, 11).tolist()))
            for _ in range(200)
        ]
        wrong = sum(any(not line.startswith(right) for line in lines) for lines in said)
        assert wrong <= 0.05 * 200 + 2 * math.sqrt(200 * 0.05 * 0.95)
        assert sum(any(line.startswith(right) for line in lines) for lines in said) > 100


# ------------------------------------------------------------------ the plan


def test_the_plan_and_its_estimates():
    settings = LowVarianceSettings(
        data="stories.jsonl", seeds=(3,), rates=(0.5, 2.0), changes=("training.learning_rate=0.004",)
    )
    plan = build_plan(replace(settings, data="sample"))
    start, own = plan.by_name["train-start-3000000-s3"], plan.by_name["train-low_variance-x2-3000000-s3"]
    assert [job.name for job in plan if job.kind == "small training"] == [
        start.name, *(f"train-{objective}-x{rate}-3000000-s3" for objective in ("nelbo", "low_variance") for rate in ("0.5", "2"))
    ]  # fmt: skip
    first, then = (job.settings["resolved"]["training"] for job in (start, own))
    assert (first["learning_rate"], then["learning_rate"]) == (0.004, 0.008)
    assert (first["muon_learning_rate"], then["muon_learning_rate"]) == (0.02, 0.04)
    assert (first["objective"], then["objective"], then["clip_norm"]) == ("nelbo", "low_variance", 1e9)
    assert first["seed"] != then["seed"]
    assert (first["max_steps"], then["max_steps"]) == (2440, 4880)  # 5M and 10M positions of 2,048, in 20 equal parts
    assert own.needs == ("subset-3000000-s3", start.name)
    # Six operations a parameter and position; evaluations and overheads are the same.
    operations = 6 * parameters(load_preset("mini-mdlm", {f"model.config.{k}": v for k, v in own.settings["resolved"]["model"]["config"].items()
                                                         if k.endswith(("size", "layers"))}))  # fmt: skip
    assert own.seconds - start.seconds == pytest.approx(operations * 2440 * 2048 / operations_per_second("cpu"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--unique_tokens", "10"], "--unique_tokens 10"),
        (["--start_positions", "100"], "start_positions=100 are 1 steps, fewer than evaluations=3"),
        (["--rates", "1", "1"], "rates=[1.0, 1.0]"),
        (["--rates", "0"], "--rates 0"),
        (["--clip_norm", "0"], "--clip_norm 0"),
        (["--plateau_margin", "-1"], "--plateau_margin -1"),
        (["--set", "training.objective=nelbo"], "training.objective cannot be set here"),
    ],
)
def test_bad_input(data, tmp_path, capsys, extra, message):
    assert run(data, tmp_path / "x", *extra) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
