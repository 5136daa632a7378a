"""The study of few unique tokens: end to end on a tiny plan, its choices by hand, endings, and what its intervals decide."""

import json
import math

import numpy as np
import pytest
import torch
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood
from arche_mdlm.metrics.likelihood import nll
from arche_mdlm.metrics.policy_likelihood import policy_nll
from arche_mdlm.studies.data_limited import jobs
from arche_mdlm.studies.data_limited.conclusions import comparisons, crossings, sentences
from arche_mdlm.studies.data_limited.plan import DataLimitedSettings, build_plan
from arche_mdlm.studies.data_limited.report import FILES, _sections
from arche_mdlm.studies.data_limited.summary import course, summary
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import Curve, chosen_on_halves
from arche_mdlm.studies.engine.small.endings import Endings
from arche_mdlm.studies.engine.small.fitting import PartsEvaluator
from arche_mdlm.studies.engine.small.subsets import HALVES, prepared_rows, sampled_rows
from arche_mdlm.training.models.loading import load_arm

BOS, EOS = 0, 1
SIZE = "1000"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_stories(tmp_path_factory.mktemp("data"), 300)


def run(data, output, *extra):
    return main(
        ["study", "data-limited", "--data", str(data), "--output", str(output), "--vocab_size", "270", "--context_length", "24",
         "--batch_size", "4", "--positions", "768", "--evaluations", "2", "--evaluation_rows", "4", "--exact_rows", "2",
         "--endings", "3", "--seeds", "0", "--unique_tokens", "1000", "--weight_decays", "0", "0.5", "--dropouts", "0.1", "--workers", "0",
         "--threads", "1", "--set", "model.config.hidden_size=24", "--set", "model.config.intermediate_size=24", "--set",
         "model.config.num_hidden_layers=1", *extra]
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("study")
    assert run(data, output) == 0
    return output


def result(study, name):
    (path,) = study.glob(f"jobs/{name}-*/result.json")
    return path.parent, json.loads(path.read_text(encoding="utf-8"))["result"]


def test_few_unique_tokens(study):
    report = json.loads((study / "report.json").read_text(encoding="utf-8"))
    assert len(report["runs"]) == 3
    assert report["missing"] == []
    own = report["sizes"][SIZE]["seeds"]["0"]
    assert {pair["dropout"] for pair in own["chosen"]} == {0.1}
    grids = {arm: [run["grid"] for run in report["runs"].values() if run["arm"] == arm] for arm in ("mdlm", "ar")}
    assert grids["mdlm"] == [[4, 8]]
    assert grids["ar"][0] == list(range(1, grids["ar"][0][-1] + 1)), "AR is evaluated more often"
    for run_ in report["runs"].values():
        assert len(run_["grid"]) == len(run_["held_out"]) == len(run_["train"]) == len(run_["endings"])
        assert all(share * 6 == pytest.approx(round(share * 6)) for share in run_["endings"]), "of 3 pairs a half"
        assert run_["grid"][-1] == min(8, 3 * run_["best_step"]) or run_["arm"] == "mdlm"
    text = (study / "report.md").read_text(encoding="utf-8")
    assert "Nothing: no comparison is decided." in text
    assert "Of 6 comparisons that this report looks at, 0 are decided" in text
    assert "One seed" in text
    assert "At no size a crossover is decided." in text
    assert all((study / name).stat().st_size > 10_000 for name in FILES if name.endswith(".png"))


def test_exact_likelihoods_are_those_of_the_checkpoints_that_the_other_half_chose(study):
    report = json.loads((study / "report.json").read_text(encoding="utf-8"))
    _, exact = result(study, "exact-1000-s0")
    subset, _ = result(study, "subset-1000-s0")
    for arm, own in exact.items():
        trainings = {name: result(study, name) for name, one in report["runs"].items() if one["arm"] == arm}
        for half, other in (HALVES, HALVES[::-1]):
            losses = {(name, entry["step"]): entry["parts"][other]["nats"]
                      for name, (_, found) in trainings.items() for entry in found["history"] if "parts" in entry}  # fmt: skip
            name, step = min(losses, key=losses.__getitem__)
            found = own["halves"][half]
            assert (found["training"], found["checkpoint"]) == (name, f"checkpoint-{step:06d}")
            folder = trainings[name][0]
            model, tokenizer = load_arm(folder / "run" / found["checkpoint"])
            rows = sampled_rows(prepared_rows(subset, half, tokenizer, 24, folder / "rows"), 4, 0)[:2]
            assert found["nats"] == pytest.approx(by_hand(model.eval(), rows), rel=1e-5)
            short = [[*rows[0][:5], tokenizer.eos_token_id]]  # whose tail behind the EOS costs nothing
            score = jobs._score(folder / "run" / found["checkpoint"], short, 24)
            assert score.nats_per_token == pytest.approx(by_hand(model, short), rel=1e-5)
            kept = {path.name for path in (folder / "run").glob("checkpoint-*")}
            best = trainings[name][1]["best"]
            assert kept == {*best.values(), trainings[name][1]["checkpoint"]}
        assert own["nats"] == pytest.approx(np.mean([one["nats"] for one in own["halves"].values()]))
    difference = report["sizes"][SIZE]["left_to_right"]["difference"]["estimate"]
    assert difference == pytest.approx(exact["mdlm"]["nats"] - exact["ar"]["nats"])


def test_a_checkpoint_is_measured_on_the_half_that_did_not_choose_it(tmp_path, monkeypatch):
    """On the first half AR's first training is the best, on the second its second; MDLM's steps 20 and 10."""
    losses = {"m": ([2, 1], [1, 2]), "ar1": ([3, 1], [3, 3]), "ar2": ([3, 3], [1, 3])}
    inputs = {"subset-1000-s0": tmp_path}
    for name, own in losses.items():
        best = {half: f"{name} best on {half}" for half in HALVES}
        inputs[name] = tmp_path / name
        inputs[name].mkdir()
        found = {"result": history(*own) | {"best": best}}
        (inputs[name] / "result.json").write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(jobs, "tokenizer_of", lambda inputs: None)
    monkeypatch.setattr(jobs, "prepared_rows", lambda source, half, *rest: half)
    monkeypatch.setattr(jobs, "sampled_rows", lambda half, number, seed: [half] * number)
    scores = iter([1.0, 2.0, 3.0, 5.0])
    measured = []

    def score(checkpoint, rows, context):
        measured.append((checkpoint.name, *rows))
        return CorpusLikelihood(next(scores), 0.0, 0.0, None, 7, len(rows), [])

    monkeypatch.setattr(jobs, "_score", score)
    arms = {"m": "mdlm", "ar1": "ar", "ar2": "ar"}
    found = jobs.exact(
        {"arms": arms, "rows": 2, "evaluation_rows": 4, "context_length": 24, "data_seed": 0}, inputs, tmp_path
    )
    first, second = HALVES
    assert measured == [
        (f"m best on {first}", second, second), (f"m best on {second}", first, first),
        (f"ar1 best on {first}", second, second), (f"ar2 best on {second}", first, first),
    ]  # fmt: skip
    assert (found["mdlm"]["nats"], found["ar"]["nats"]) == (1.5, 4.0)
    assert found["ar"]["halves"][first] == {"training": "ar2", "checkpoint": f"ar2 best on {second}", "nats": 5.0, "tokens": 7}  # fmt: skip


def by_hand(model, rows):
    """Nats a token up to the EOS, a row at a time: MDLM's, on a canvas of 24, with masks behind what is written."""
    total = 0.0
    for row in rows:
        ids = torch.tensor([row])
        if model.config.model_type != "mdlm":
            total += float(nll(model, ids))
            continue
        for place in range(1, len(row)):
            canvas = torch.full((1, 24), model.config.mask_token_id)
            canvas[0, :place] = ids[0, :place]
            with torch.no_grad():
                logits = model(canvas).logits[0, place].double()
            logits[model.config.mask_token_id] = -math.inf
            total -= float(logits.log_softmax(-1)[row[place]])
    return total / sum(len(row) - 1 for row in rows)


def test_bad_input(data, tmp_path, capsys):
    for extra, message in (
        (["--unique_tokens", "2000", "2000"], "unique_tokens=[2000, 2000]"),
        (["--dropouts", "1"], "--dropouts 1"),
        (["--exact_rows", "5"], "exact_rows=5 must be at most evaluation_rows=4"),
        (["--endings", "5"], "endings=5 must be at most evaluation_rows=4"),
        (["--endings", "0"], "--endings 0"),
    ):
        assert run(data, tmp_path / "x", *extra) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_ar_ends_behind_its_minimum_and_mdlm_does_not(data):
    plan = build_plan(DataLimitedSettings(data=str(data), seeds=(0,), unique_tokens=(1000,), evaluations=20))
    about = plan.by_name["summarise"].settings["trainings"]
    assert {own["past_best"] for own in about.values() if own["arm"] == "ar"} == {3.0}
    assert {own["past_best"] for own in about.values() if own["arm"] == "mdlm"} == {None}
    for name, own in about.items():
        training = plan.by_name[name].settings["resolved"]["training"]
        often = 4 if own["arm"] == "ar" else 1
        assert training["max_steps"] / training["eval_every"] == 20 * often
        assert training["keep_checkpoints"] >= 20 * often, "any evaluation may be the best one of a half"
    assert plan.by_name["exact-1000-s0"].needs == ("subset-1000-s0", *about)


# Choices by hand.


def history(first, second, train=1.0, endings=None, steps=None):
    """Of a training with these held-out losses on the two halves."""
    entries = [
        {"step": 10 * (i + 1), "tokens": 100,
         "parts": {"train": {"nats": train}, HALVES[0]: {"nats": a}, HALVES[1]: {"nats": b}}}
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ]  # fmt: skip
    for entry, shares in zip(entries, endings or [], strict=False):
        entry["endings"] = {half: {"share": share, "pairs": 4} for half, share in zip(HALVES, shares, strict=True)}
    last = 10 * len(first)
    return {"history": entries, "steps": last, "tokens": 10 * last, "seconds": 1.0, "parameters": 7, "device": "x",
            "versions": {}, "best": {}}  # fmt: skip


ABOUT = {"size": 1000, "seed": 0, "subset": "subset-1000-s0", "planned": 30, "past_best": None}
TRAININGS = {
    "m": ABOUT | {"arm": "mdlm"},
    "ar1": ABOUT | {"arm": "ar", "weight_decay": 0.0, "dropout": 0.0, "past_best": 3.0},
    "ar2": ABOUT | {"arm": "ar", "weight_decay": 1.0, "dropout": 0.0, "past_best": 3.0},
}


def results():
    return {
        "m": history([4, 3, 2], [4, 3, 2], endings=[(0.5, 0.5), (0.5, 0.75), (1.0, 0.75)]),
        "ar1": history([3, 1, 5], [3, 2, 5], endings=[(0.5, 0.5), (0.75, 0.25), (0.5, 0.75)]),
        "ar2": history([3, 3], [3, 1.5], endings=[(0.25, 0.25), (0.5, 0.0)]),
        "subset-1000-s0": {"tokens": 150},
        "exact-1000-s0": {"mdlm": {"nats": 1.75, "halves": {}}, "ar": {"nats": 2.0, "halves": {}}},
    }


def test_ar_is_tuned_on_one_half_and_measured_on_the_other():
    report = summary({"trainings": TRAININGS}, results())
    own = report["sizes"][SIZE]["seeds"]["0"]

    # On the first half the best is ar1 at step 20 (second half: 2), on the second ar2 at step 20 (first half: 3).
    assert own["ar"] == 2.5
    assert own["mdlm"] == 2
    assert own["difference"] == -0.5
    assert [pair["weight_decay"] for pair in own["chosen"]] == [0.0, 1.0]
    assert own["tuned"] == "ar1"
    assert own["left_to_right"]["difference"] == -0.25
    # The bound falls from 3 to 2 between the steps 20 and 30, and 10 tokens a step are an epoch in 15 steps.
    assert own["crossed_at"]["step"] == pytest.approx((20 * 30) ** 0.5)
    assert own["crossed_at"]["epoch"] == pytest.approx((20 * 30) ** 0.5 / 15)
    assert {name: one["stopped"] for name, one in report["runs"].items()} == {"m": False, "ar1": False, "ar2": True}
    assert report["missing"] == []


def test_a_missing_job_leaves_its_size_or_its_likelihood_out():
    some = results()
    del some["ar2"]
    part = summary({"trainings": TRAININGS}, some)
    assert part["sizes"][SIZE]["seeds"] == {}, "an AR that is tuned in part does not count"
    assert part["missing"] == ["ar2"]
    assert set(comparisons(part)) == {
        ("bound", SIZE, ""), ("left to right", SIZE, ""), ("rise", SIZE, "ar"), ("endings", SIZE, "ar"), ("rise", SIZE, "mdlm"),
        ("endings", SIZE, "mdlm"),
    }  # fmt: skip
    assert sentences(part) == []
    rest = results()
    del rest["exact-1000-s0"]
    without = summary({"trainings": TRAININGS}, rest)
    assert without["missing"] == ["exact-1000-s0"]
    assert without["sizes"][SIZE]["left_to_right"] == {"ar": None, "mdlm": None, "difference": None, "seeds": 0}
    assert crossings(without)[0]["exact_seeds"] == 0


def test_an_arms_course_is_that_of_the_evaluation_that_the_other_half_chose():
    """On the first half ar1's second evaluation is the best, on the second ar2's second: its last, as it was stopped there."""
    curves = [Curve.of(results()[name]["history"]) for name in ("ar1", "ar2")]
    assert chosen_on_halves(curves) == [(0, 1), (1, 1)]
    own = course(curves)
    assert (own["best"], own["last"], own["rise"]) == (2.5, 4.0, 1.5)  # (2 + 3) / 2, (5 + 3) / 2
    assert (own["gap_best"], own["gap_last"]) == (1.5, 3.0)
    # ar1's second half: 0.25, at last 0.75; ar2's first half: 0.5, which is its last.
    assert (own["endings_best"], own["endings_last"], own["endings_change"]) == (0.375, 0.625, 0.25)


def test_a_report_of_unequal_lengths_says_who_was_stopped():
    settings = {"positions": 300, "seeds": [0], "weight_decays": [0.0, 1.0], "dropouts": [0.0], "exact_rows": 2,
                "endings": 4, "evaluation_draws": 2}  # fmt: skip
    report = summary({"trainings": TRAININGS}, results())
    about = {"settings": settings, "failed": {}, "command": "x", "data_hash": "", "training_commands": {}}
    text = "\n".join(_sections(report | about, {}))
    assert "1 of 2 trainings of AR ended early, at the first evaluation at 3 times" in text
    assert "In 0 of 2 trainings of AR and 1 of 1 of MDLM the lowest held-out loss is that of the last step" in text
    assert "| 1,000 | 1 of 1 seeds | 1.6 | not decided | 1 of 1 seeds | not decided |" in text
    # AR's tuned training in three evaluations: first, second, last.
    assert "| 1,000 | AR | 20 | 1 | 1.5000 | 1.0000 | 0.500 |" in text
    assert "| 1,000 | AR | 30 | 1 | 5.0000 | 1.0000 | 0.625 |" in text


# Endings.


def test_a_corrupted_ending_is_anothers_of_the_same_length_and_end():
    rows = [
        [BOS, 10, 11, 12, 13, EOS],
        [BOS, 20, 21, 22, 23, EOS],
        [BOS, 30, 31, 32, 33, 34],  # no other without an EOS
        [BOS, 40],  # too short for an ending
    ]
    found = Endings.of(rows, 4, [0, 17], EOS)
    pairs = {tuple(row): (tuple(other), given) for row, other, given in zip(found.true, found.corrupted, found.num_given, strict=True)}  # fmt: skip
    assert pairs == {
        tuple(rows[0]): ((BOS, 10, 11, 12, 23, EOS), 4),
        tuple(rows[1]): ((BOS, 20, 21, 22, 13, EOS), 4),
    }
    assert Endings.of(rows, 4, [0, 17], EOS) == found
    assert len(Endings.of(rows, 1, [0, 17], EOS).true) == 1
    with pytest.raises(ValueError, match="none of 2 held-out rows"):  # their endings are the same
        Endings.of([[BOS, 5, 6, 7, 8, EOS], [BOS, 9, 9, 7, 8, EOS]], 2, [0, 17], EOS)


def test_a_tie_is_not_likelier():
    pairs = Endings([[1], [2], [3], [4]], [[5], [6], [7], [8]], [1, 1, 1, 1])
    nats = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 2.0, 6: 2.0, 7: 2.0, 8: 5.0}
    assert pairs.share(lambda rows, given: [nats[row[0]] for row in rows]) == 0.5


ROWS = [[BOS, *np.random.default_rng(i).integers(4, 40, 10).tolist(), EOS] for i in range(12)]


def test_ar_tells_endings_by_their_exact_likelihood_behind_the_beginning(tiny_ar):
    """-log p(ending | beginning) is that of the whole less that of the beginning."""
    found = Endings.of(ROWS, 12, [0, 17], EOS)

    def conditional(row, given):
        whole, beginning = torch.tensor([row]), torch.tensor([row[:given]])
        return float(nll(tiny_ar, whole)) - float(nll(tiny_ar, beginning))

    likelier = [conditional(row, given) < conditional(other, given)
                for row, other, given in zip(found.true, found.corrupted, found.num_given, strict=True)]  # fmt: skip
    score = PartsEvaluator({"held-out-a": ROWS}, 16, 2, endings={"held-out-a": found})(tiny_ar)
    assert 0 < sum(likelier) < 12
    assert score["endings"] == {"held-out-a": {"share": sum(likelier) / 12, "pairs": 12}}


def test_mdlm_tells_endings_with_the_same_masks(tiny_mdlm):
    """Two equal endings have one and the same bound, so that neither is likelier."""
    found = Endings.of(ROWS, 12, [0, 17], EOS)
    evaluator = PartsEvaluator({"held-out-a": ROWS}, 16, 2, endings={
        "same": Endings(found.true, found.true, found.num_given), "other": found,
        "swapped": Endings(found.corrupted, found.true, found.num_given)})  # fmt: skip
    shares = {name: own["share"] for name, own in evaluator(tiny_mdlm)["endings"].items()}
    assert shares["same"] == 0
    assert 0 < shares["other"] < 1
    assert shares["swapped"] == pytest.approx(1 - shares["other"])


def test_the_beginning_is_given_to_mdlm(tiny_mdlm):
    """With one token of an ending on a full canvas the bound is exact: the policy's of that token."""
    rows = [row[:9] for row in ROWS]
    given = [8] * len(rows)
    corrupted = [[*row[:8], (row[8] - 3) % 36 + 4] for row in rows]
    nats = [policy_nll(tiny_mdlm, torch.tensor(own), condition_mask=torch.arange(9).expand(12, 9) < 8).nats for own in (rows, corrupted)]  # fmt: skip
    evaluator = PartsEvaluator({"a": rows}, 9, 2, endings={"a": Endings(rows, corrupted, given)})
    assert evaluator(tiny_mdlm)["endings"]["a"]["share"] == pytest.approx(float((nats[0] < nats[1]).double().mean()))


# What is said.


def interval(estimate, half):
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def size(seeds=5, **figures):
    """A size of a report, in which nothing differs but what is given."""
    nothing = {
        name: interval(0.0, 1.0) for name in ("bound", "exact", "ar_rise", "ar_endings", "mdlm_rise", "mdlm_endings")
    }
    own = nothing | figures
    return {
        "difference": own["bound"], "left_to_right": {"difference": own["exact"], "seeds": seeds},
        "course": {arm: {"rise": own[f"{arm}_rise"], "endings_change": own[f"{arm}_endings"]} for arm in ("ar", "mdlm")},
        "seeds": {str(seed): {"difference": 0.0, "left_to_right": None, "crossed_at": None} for seed in range(seeds)},
    }  # fmt: skip


def test_only_what_is_decided_is_said():
    sure = interval(-0.3, 0.01)
    (line,) = sentences({"sizes": {SIZE: size(bound=sure)}})
    assert line.startswith(
        "With 1,000 unique tokens MDLM's best bound is below tuned AR's best loss, and so is its own loss: -0.3000"
    )
    (line,) = sentences({"sizes": {SIZE: size(bound=interval(0.3, 0.01))}})
    assert "stays above" in line
    assert "nothing follows for its own loss" in line
    (line,) = sentences({"sizes": {SIZE: size(exact=sure)}})
    assert "written from left to right, is below tuned AR's NLL" in line
    assert sentences({"sizes": {SIZE: size(bound=interval(-0.3, 0.4))}}) == []
    # Alone its interval decides it (t of 4 degrees of freedom: p = 0.03), among six it does not.
    assert sentences({"sizes": {SIZE: size(bound=interval(-0.3, 0.25))}}) == []
    one = {"estimate": -0.3, "low": None, "high": None}
    assert sentences({"sizes": {SIZE: size(1, bound=one, exact=one)}}) == []


def test_a_rising_loss_and_its_endings():
    rise, better, worse = interval(0.5, 0.01), interval(0.1, 0.002), interval(-0.1, 0.002)
    (line,) = sentences({"sizes": {SIZE: size(ar_rise=rise, ar_endings=better)}})
    assert "from AR's best held-out loss to its last evaluation the held-out loss changes by +0.5000" in line
    assert "likelier changes by +0.100" in line
    assert line.endswith("So a rising loss does not go with worse endings.")
    (line,) = sentences({"sizes": {SIZE: size(ar_rise=rise, ar_endings=worse)}})
    assert line.endswith("So a rising loss goes with worse endings.")
    (line,) = sentences({"sizes": {SIZE: size(mdlm_rise=rise)}})
    assert "endings" not in line
    (line,) = sentences({"sizes": {SIZE: size(mdlm_endings=worse)}})
    assert "So a rising loss" not in line


def test_where_nothing_differs_few_reports_say_that_something_does():
    rng = np.random.default_rng(0)
    names = ("bound", "exact", "ar_rise", "ar_endings", "mdlm_rise", "mdlm_endings")

    def null():
        return {"sizes": {str(tokens): size(3, **{name: over_seeds(rng.normal(size=3)) for name in names})
                          for tokens in (1000, 2000, 3000)}}  # fmt: skip

    assert len(comparisons(null())) == 18
    said = sum(bool(sentences(null())) for _ in range(150))
    assert said <= 0.05 * 150 + 2 * math.sqrt(150 * 0.05 * 0.95)


def test_crossovers_are_counted_whether_there_are_any_or_none():
    own = size(2, bound=interval(-0.3, 0.001), exact=interval(0.2, 5.0))
    own["seeds"] = {
        "0": {"difference": -0.2, "left_to_right": {"difference": -0.1}, "crossed_at": {"step": 5, "epoch": 2.5}},
        "1": {"difference": 0.1, "left_to_right": {"difference": 0.5}, "crossed_at": {"step": 5, "epoch": 2.5}},
    }
    (found,) = crossings({"sizes": {SIZE: own}})
    assert found == {"size": SIZE, "seeds": 2, "bound": 1, "epochs": [2.5], "exact_seeds": 2, "left_to_right": 1,
                     "decided": {"bound": -1, "left to right": 0}}  # fmt: skip
    (none,) = crossings({"sizes": {SIZE: size(2)}})
    assert (none["bound"], none["exact_seeds"], none["epochs"]) == (0, 0, [])
