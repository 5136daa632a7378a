"""The speed-quality study, end to end on an untrained pair with a tiny judge."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from arche_mdlm import available_samplers
from arche_mdlm.commands.main import main
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.metrics.judge import load_judge, unigram_entropy
from arche_mdlm.studies.engine import texts as jobs
from arche_mdlm.studies.engine.rows import job_name
from arche_mdlm.studies.engine.texts import judge_texts
from arche_mdlm.studies.speed_quality import plan
from arche_mdlm.training.files.own_files import MANIFEST
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import load_arm, save_arm, set_generation_defaults

TEXTS = [f"The {a} saw the {b}. The end." for a in ("dog", "cat", "bird") for b in ("tree", "sun", "mat")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, tokenizer):
    """Folders mdlm, ar and judge, and held_out.jsonl."""
    root = tmp_path_factory.mktemp("pair")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 24, "tie_word_embeddings": True}  # fmt: skip
    for name, architecture in (("mdlm", "mdlm"), ("ar", "llama")):
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape), tokenizer)
        set_generation_defaults(model, tokenizer, 24)
        save_arm(model, tokenizer, root / name)
    LlamaForCausalLM(LlamaConfig(**shape | {"max_position_embeddings": 512})).save_pretrained(root / "judge")
    tokenizer.save_pretrained(root / "judge")
    (root / "held_out.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), encoding="utf-8")
    return root


def run(pair, output, *extra, judge=None):
    return main(
        ["study", "speed-quality", "--mdlm", str(pair / "mdlm"), "--ar", str(pair / "ar"), "--output", str(output),
         "--steps", "2", "4", "--batch_sizes", "1", "3", "--num_samples", "4", "--num_timed", "1", "--repeats", "1",
         "--threads", "1", "--judge", judge or str(pair / "judge"), *extra]
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:data has")
def test_report_and_resume(pair, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    options = ("--samplers", "ancestral", "confidence", "--references", str(pair / "held_out.jsonl"))
    assert run(pair, output, *options, "--dry_run") == 0
    assert "17 jobs, 0 of them done, 17 to do" in capsys.readouterr().out
    assert not output.exists()

    # Interrupted after five jobs, it goes on where it stopped.
    seen = []

    def stopped(real):
        def job(*args):
            if len(seen) == 5:
                raise KeyboardInterrupt
            seen.append(args)
            return real(*args)

        return job

    with monkeypatch.context() as patch:
        for name in ("speed", "texts"):
            patch.setattr(jobs, name, stopped(getattr(jobs, name)))
        assert run(pair, output, *options) == 130
    capsys.readouterr()
    assert run(pair, output, *options) == 0
    printed = capsys.readouterr().out
    assert "17 jobs, 5 of them done, 12 to do" in printed
    assert f"The report is in {output / 'report.md'}" in printed
    assert {path.name for path in output.iterdir()} == {
        MANIFEST, "frontier.png", "report.json", "report.md", "study.json", "jobs", "work", ".lock"
    }  # fmt: skip
    check_report(pair, output)

    # A finished result is not measured again; another seed is.
    assert run(pair, output, *options, "--dry_run") == 0
    assert "17 jobs, 17 of them done, 0 to do" in capsys.readouterr().out
    assert run(pair, output, *options, "--dry_run", "--seed", "1") == 0
    assert "17 jobs, 0 of them done" in capsys.readouterr().out


def check_report(pair, output):
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    _, tokenizer = load_arm(pair / "mdlm")
    judge = load_judge(str(pair / "judge"))
    assert [(row["label"], row["steps"]) for row in report["rows"]] == [
        ("AR, KV cache", None), ("ancestral", 2), ("ancestral", 4), ("confidence", 2), ("confidence", 4)
    ]  # fmt: skip
    for row in report["rows"]:
        own = report["cells"][job_name("texts", row["label"]) + (f"-{row['steps']}" if row["steps"] else "")]["texts"]
        assert len(own) == 4
        assert row["unigram_entropy_nats"] == pytest.approx(unigram_entropy(own, tokenizer).nats)
        assert row["generative_perplexity"] == pytest.approx(judge.score(own).generative_perplexity, rel=1e-4)
        again = judge_texts(own, tokenizer, None, 0)
        assert row["distinct_2"] == pytest.approx(again["distinct_2"])
        assert set(row["stories_per_second"]) == {"1", "3"}
        speed = row["stories_per_second"]["3"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        if row["steps"] is None:
            assert (row["num_forwards"], row["tokens_per_forward"]) == (row["mean_tokens"], 1)
        else:
            assert row["num_forwards"] <= row["steps"] + 1
    assert report["reference"]["generative_perplexity"] > 1
    assert str(pair) not in json.dumps(report)
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert "| held-out stories |" in markdown
    assert "| confidence † | 4 |" in markdown  # short texts
    assert "† shown, but left out of all sentences: " in markdown
    assert "confidence, 4: its median text has " in markdown
    assert (output / "frontier.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:data has")
def test_every_sampler_without_a_judge(pair, tmp_path):
    assert run(pair, tmp_path, "--steps", "2", "--batch_sizes", "2", judge="none") == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    labels = {row["label"] for row in report["rows"]}
    expected = {label for name in available_samplers() for label in plan.VARIANTS.get(name, {name: {}})}
    assert labels == expected | {plan.AR}
    assert all(row["generative_perplexity"] is None for row in report["rows"])
    assert len(list((tmp_path / "jobs").iterdir())) == 2 * len(labels) + 1  # texts, judged; the summary


def test_bad_input(pair, tmp_path, capsys):
    for extra, message in (
        (["--samplers", "ancestrl"], "samplers=['ancestrl'] are not among"),
        (["--steps", "0"], "--steps 0 must be at least 1"),
        (["--steps", "2", "2"], "steps=[2, 2]"),
        (["--judge", "nowhere/at/all"], "judge='nowhere/at/all' does not exist"),
        (["--temperature", "0"], "--temperature 0.0"),
        (["--num_samples", "1"], "--num_samples 1"),
        (["--mdlm", str(pair / "ar")], "swapped"),
    ):
        assert run(pair, tmp_path / "x", *extra) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
