"""The comparison, end to end on an untrained pair: every part of the report is there and adds up."""

import dataclasses
import gzip
import json
import math
import warnings

import numpy as np
import pytest
import torch

from arche_mdlm.commands.main import main
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.metrics.corpus_likelihood import corpus_nll
from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.engine.readings.decisions import decide
from arche_mdlm.studies.engine.records import figures_again, packed, sha256_of
from arche_mdlm.studies.quickstart import jobs as comparison
from arche_mdlm.studies.quickstart.first_look import GAPS, HOLE, with_holes
from arche_mdlm.studies.quickstart.report import comparisons
from arche_mdlm.training.data.tokenizers_io import train_bpe
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import load_arm, save_arm, set_generation_defaults
from arche_mdlm.writing import stories
from tools.figures_again import main as figures_command

TEXTS = [f"{a} {b} {c} a {d}. The end." for a in ("Tom", "Lily") for b in ("saw", "had") for c in ("then", "now")
         for d in ("dog", "cat", "ball", "tree")]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    tokenizer = train_bpe(TEXTS, vocab_size=300)
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 96, "tie_word_embeddings": True}  # fmt: skip
    for name, architecture in (("mdlm", "mdlm"), ("ar", "llama")):
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape), tokenizer)
        set_generation_defaults(model, tokenizer, 96)
        save_arm(model, tokenizer, root / name)
    (root / "held_out.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), encoding="utf-8")
    return root


def run(pair, output, *extra):
    return main(
        ["compare", "--mdlm", str(pair / "mdlm"), "--ar", str(pair / "ar"), "--output", str(output), "--num_samples", "12",
         "--num_diffusion_steps", "4", "--batch_size", "5", "--data", str(pair / "held_out.jsonl"), *extra]
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:data has")
def test_report(pair, tmp_path, capsys):
    assert run(pair, tmp_path / "report", "--references", str(pair / "held_out.jsonl")) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert report["arms"]["MDLM"]["parameters"] == report["arms"]["AR"]["parameters"]
    assert "(equal)" in text
    for arm in report["arms"].values():
        texts = [story["text"] for story in arm["unprompted"]]
        assert len(texts) == 12
        again = diversity(texts, seed=0)
        for key, value in arm["diversity"].items():
            assert value == pytest.approx(again[key]), key
        score = arm["likelihood"]["held_out.jsonl"]
        # An untrained model is close to uniform over the vocabulary; MDLM pays for the tail of its canvas as well.
        assert score["nats_per_token"] > 5
        assert all(story["text"].startswith(story["prompt"]) for story in arm["prompted"])
    assert report["reference"]["figures"]["mean_words"] == pytest.approx(7, abs=0.5)
    for picture in ("diversity.png", "lengths.png"):
        assert (tmp_path / "report" / picture).stat().st_size > 10_000
        assert picture in text
    laws = report["first_tokens"]["laws"]
    assert list(laws) == ["data", "MDLM", "AR"]
    assert laws["data"]["expected_distinct"]["estimate"] == pytest.approx(
        2 - 2 * math.comb(16, 12) / math.comb(32, 12)
    )  # of 12 out of 32 stories, half of which begin with either name
    assert 0 < laws["AR"]["entropy_nats"]["estimate"] <= math.log(300)
    assert "| data |" in text
    assert "first_tokens.png" in text
    said = capsys.readouterr().out
    assert "The report is in" in said
    assert said.index("MDLM fills masks") < said.index(" jobs, 0 of them done"), "something to look at comes first"
    for heading in ("**What have I got?**", "## Is it good?", "## What next?", "## Words used here"):
        assert heading in text
    assert f"arche-mdlm generate {(pair / 'mdlm').name} --prompt" in text
    assert set(report["gaps"]) == set(GAPS)
    assert not any("[MASK]" in filled for filled in report["gaps"].values())
    assert [(row["arm"], row["temperature"]) for row in report["temperatures"]] == [
        ("MDLM", 1.0), ("MDLM", 0.7), ("AR", 1.0), ("AR", 0.7)]  # fmt: skip
    twin, tokenizer = load_arm(pair / "ar")
    for row in report["temperatures"]:
        assert row["diversity"] is not None
    texts = [story["text"] for story in report["arms"]["AR"]["unprompted"]]
    rows = [ids[:96] for ids in tokenizer([text for text in texts if text.strip()])["input_ids"]]
    expected = corpus_nll(twin, rows, pad_token_id=tokenizer.pad_token_id).nats_per_token
    assert report["temperatures"][2]["twin_nats"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:data has")
def test_the_same_seed_gives_the_same_report_and_the_batch_size_no_other_diffusion_stories(pair, tmp_path):
    run(pair, tmp_path / "a")
    run(pair, tmp_path / "b", "--batch_size", "12")
    a, b = (json.loads((tmp_path / n / "report.json").read_text(encoding="utf-8"))["arms"]["MDLM"] for n in "ab")
    assert a["unprompted"] == b["unprompted"]
    assert a["diversity"] == b["diversity"]


@pytest.mark.filterwarnings("ignore:data has")
def test_a_job_that_fails_is_named_and_all_others_are_kept(pair, tmp_path, monkeypatch, capsys):
    def fails(settings, inputs, folder):
        raise ValueError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "likelihood", fails)
        assert run(pair, tmp_path / "x") == 2
    said = capsys.readouterr()
    assert "report not written, because a job failed (MDLM-likelihood: ValueError: no memory left; AR-" in said.err
    assert "run the same command again to run the remaining jobs" in said.err
    assert not (tmp_path / "x" / "report.md").exists()
    monkeypatch.setattr(stories, "write_batch", None)  # all stories are there
    assert run(pair, tmp_path / "x", "--dry_run") == 0
    assert "14 jobs, 11 of them done, 3 to do" in capsys.readouterr().out
    assert run(pair, tmp_path / "x") == 0


@pytest.mark.filterwarnings("ignore:data has")
def test_it_is_a_study_like_the_others(pair, tmp_path, capsys):
    """Under the name of its folder, with a plan to look at, and a page to publish."""
    words = ["--mdlm", str(pair / "mdlm"), "--ar", str(pair / "ar"), "--output", str(tmp_path / "x"), "--num_samples", "4",
             "--num_diffusion_steps", "2", "--data", str(pair / "held_out.jsonl")]  # fmt: skip
    assert main(["study", "quickstart", *words, "--dry_run"]) == 0
    assert "14 jobs, 0 of them done" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
    assert main(["compare", *words]) == 0
    assert main(["study", "quickstart", *words, "--publish", str(tmp_path / "page")]) == 0
    assert "14 jobs, 14 of them done, 0 to do" in capsys.readouterr().out
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "](page/lengths.png)" in text
    assert "`page.json`" in text
    assert (tmp_path / "page" / "lengths.png").is_file()
    again = figures_again(tmp_path / "page.jsonl.gz")
    report = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert set(report["code"]) == {"git", "versions"}
    for name, arm in report["arms"].items():
        found = again[f"{name}-unprompted"]
        assert {key: found[key] for key in ("distinct_2", "self_bleu", "mean_words")} == {
            key: arm["diversity"][key] for key in ("distinct_2", "self_bleu", "mean_words")}  # fmt: skip
        score = arm["likelihood"]["held_out.jsonl"]["nats_per_token"]
        assert again[f"{name}-likelihood"]["nats_per_token"] == pytest.approx(score)
    assert figures_command([str(tmp_path / "page.jsonl.gz")]) == 0
    assert " 0 differ" in capsys.readouterr().out
    report["arms"]["MDLM"]["diversity"]["distinct_2"] += 1e-6
    (tmp_path / "page.json").write_text(json.dumps(report), encoding="utf-8")
    assert figures_command([str(tmp_path / "page.jsonl.gz")]) == 1
    assert "MDLM-unprompted, distinct_2: published" in capsys.readouterr().out
    assert packed(tmp_path / "x") == (tmp_path / "page.jsonl.gz").read_bytes()
    with gzip.open(tmp_path / "page.jsonl.gz", "rt", encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream]
    assert not set(TEXTS) & {record.get("text") for record in records}
    (named,) = [record for record in records if "sha256" in record]  # the same stories for both arms
    used = {record["held_out"]: record for record in records if "nats" in record}
    assert set(used) == {named["held_out"]}
    assert len(named["sha256"]) == len(used[named["held_out"]]["nats"])
    assert set(named["sha256"]) <= {sha256_of(text) for text in TEXTS}
    assert str(tmp_path) not in text + (tmp_path / "page.json").read_text(encoding="utf-8")


def test_bad_input(pair, tmp_path, capsys):
    swapped = ["compare", "--mdlm", str(pair / "ar"), "--ar", str(pair / "mdlm"), "--output", str(tmp_path / "x")]
    assert main(swapped) == 2
    assert "swapped" in capsys.readouterr().err
    assert main(["compare", "--mdlm", str(tmp_path), "--ar", str(pair / "ar")]) == 2
    assert "config.json is missing" in capsys.readouterr().err
    assert run(pair, tmp_path / "x", "--num_samples", "1") == 2
    assert "--num_samples 1 must be at least 2" in capsys.readouterr().err
    assert run(pair, tmp_path / "x", "--temperature", "0") == 2
    assert "--temperature 0.0 must be at least 0.001" in capsys.readouterr().err
    assert run(pair, tmp_path / "x", "--num_samples", "500", "--references", str(pair / "held_out.jsonl")) == 2
    assert "32 held-out stories that fit, but 500 are needed" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_generate_command(pair, tmp_path, capsys):
    out = tmp_path / "texts.jsonl"
    assert main(["generate", str(pair / "mdlm"), "--prompt", "Tom saw", "--num_samples", "3", "--num_diffusion_steps", "4",
                 "--output", str(out)]) == 0  # fmt: skip
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3
    assert all(line["text"].startswith("Tom saw") for line in lines)
    assert main(["generate", str(pair / "ar"), "--sampler", "ancestral"]) == 2
    assert "is for diffusion models" in capsys.readouterr().err
    assert main(["generate", str(pair / "mdlm"), "--sampler", "ancestrl"]) == 2
    assert "did you mean 'ancestral'" in capsys.readouterr().err


def stop_after(monkeypatch, calls: int):
    """Ctrl-C in the place of the next batch."""
    real, seen = stories.write_batch, []

    def write_batch(*args):
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(stories, "write_batch", write_batch)
    return seen


def figures(output) -> dict:
    """The report without times."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    for arm in report["arms"].values():
        del arm["stories_per_second"], arm["tokens_per_second"]
    return {key: value for key, value in report.items() if key not in ("seconds", "settings")}


@pytest.mark.filterwarnings("ignore:data has")
def test_an_interrupted_comparison_goes_on_to_the_same_figures(pair, tmp_path, monkeypatch, capsys):
    assert run(pair, tmp_path / "whole") == 0
    # 3 batches of 12 unprompted stories, 3 of the cooler ones and 2 of 8 prompted ones, an arm.
    for calls in (1, 7, 6):
        with monkeypatch.context() as patch:
            stop_after(patch, calls)
            assert run(pair, tmp_path / "parts") == 130
    (torn,) = (tmp_path / "parts" / "work").glob("AR-prompted*/*.partial")
    torn.write_bytes(torn.read_bytes()[:-9] if torn.stat().st_size else b"{")
    with monkeypatch.context() as patch:
        seen = stop_after(patch, 99)
        assert run(pair, tmp_path / "parts") == 0
        assert 0 < len(seen) <= 16 - 13
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")

    # A finished one is reported again: no story is written, no likelihood measured.
    with monkeypatch.context() as patch:
        patch.setattr(stories, "write_batch", None)
        patch.setattr(comparison, "Evaluator", None)
        (tmp_path / "parts" / "report.md").unlink()
        assert run(pair, tmp_path / "parts") == 0
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")
    assert (tmp_path / "parts" / "report.md").is_file()


@pytest.mark.filterwarnings("ignore:data has")
@pytest.mark.parametrize("count", ["2", "3"])
def test_few_stories(pair, tmp_path, count):
    assert (
        run(pair, tmp_path / "x", "--num_samples", count, "--likelihood_samples", "2", "--batch_size", "1000000") == 0
    )
    text = (tmp_path / "x" / "report.md").read_text(encoding="utf-8")
    assert f"{count} stories an arm without a prompt" in text


@pytest.mark.filterwarnings("ignore:data has")
def test_texts_that_are_all_empty_and_one_held_out_story(pair, tmp_path, monkeypatch, capsys):
    real = stories.write_batch

    def empty(model, tokenizer, prompts, *rest):
        batch = real(model, tokenizer, prompts, *rest)
        return stories.Batch([dataclasses.replace(story, text=story.prompt) for story in batch.stories], None)

    monkeypatch.setattr(stories, "write_batch", empty)
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    assert run(pair, tmp_path / "x", "--data", str(tmp_path / "one.jsonl")) == 0
    assert "every text is empty" in capsys.readouterr().out
    assert "| Self-BLEU | – | – |" in (tmp_path / "x" / "report.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:data has", "ignore:references has")
def test_texts_without_spaces_are_counted_in_characters(pair, tmp_path, monkeypatch):
    real = stories.write_batch

    def chinese(model, tokenizer, prompts, seeds, kwargs):
        batch = real(model, tokenizer, prompts, seeds, kwargs)
        return stories.Batch(
            [dataclasses.replace(s, text=s.prompt + "小猫坐在垫子上" * (s.seed % 3 + 1)) for s in batch.stories], None
        )

    monkeypatch.setattr(stories, "write_batch", chinese)
    with pytest.warns(UserWarning, match="white space does not separate the words of 100% of the texts"):
        assert run(pair, tmp_path / "x") == 0
    assert "Give `--count characters`" in (tmp_path / "x" / "report.md").read_text(encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "data has")
        assert run(pair, tmp_path / "x", "--count", "characters") == 0
    report = json.loads((tmp_path / "x" / "report.json").read_text(encoding="utf-8"))
    assert report["arms"]["AR"]["diversity"]["mean_words"] == 14


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data", "nowhere.jsonl"], "source='nowhere.jsonl' does not exist"),
        (["--references", "nowhere.jsonl"], "source='nowhere.jsonl' does not exist"),
        (["--mdlm", "no/such/place"], "'no/such/place' does not exist"),
        (["--ar", "no/such/place"], "'no/such/place' does not exist"),
        (["--output", "{file}/x"], "cannot write to"),
        (["--output", "/proc/x"], "cannot write to /proc/x"),
        (["--temperature", "nan"], "--temperature nan must be a finite number"),
        (["--num_diffusion_steps", "0"], "--num_diffusion_steps 0 must be at least 1"),
        (["--seed", "-1"], "--seed -1 must be at least 0"),
    ],
)
def test_everything_is_checked_before_a_story_is_written(pair, tmp_path, extra, message, monkeypatch, capsys):
    monkeypatch.setattr(stories, "write_batch", None)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert run(pair, tmp_path / "x", *(word.format(file=tmp_path / "file") for word in extra)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_canvas_is_shown_with_its_holes(pair):
    _, tokenizer = load_arm(pair / "mdlm")
    ids = tokenizer("Tom saw a dog.")["input_ids"]
    ids[-2] = tokenizer.mask_token_id
    ids += [tokenizer.eos_token_id, ids[-1]]
    shown = with_holes(ids, tokenizer)
    assert shown.startswith("Tom saw")
    assert shown.count(HOLE) == 1


def null_report(rng):
    """Both arms and the real stories of one law; the intervals are those of normal errors."""

    def figures():
        values = {"distinct_openings": rng.normal(0.5, 0.05), "distinct_2": rng.normal(0.6, 0.02)}
        errors = {"distinct_openings": 0.05, "distinct_2": 0.02}
        own = {f"{key}_ci": (value - 1.96 * errors[key], value + 1.96 * errors[key]) for key, value in values.items()}
        return values | own

    arms = {name: {"diversity": figures()} for name in ("MDLM", "AR")}
    return {"arms": arms, "reference": {"figures": figures()}}


def test_where_nothing_differs_few_reports_say_that_something_does():
    rng = np.random.default_rng(0)
    said = sum(any(decide(comparisons(null_report(rng))).values()) for _ in range(300))
    assert said <= 0.05 * 300 + 2 * (300 * 0.05 * 0.95) ** 0.5


def test_a_large_difference_is_decided_and_poor_arms_are_left_out():
    report = null_report(np.random.default_rng(0))
    report["arms"]["MDLM"]["diversity"] |= {"distinct_openings": 0.9, "distinct_openings_ci": (0.88, 0.92)}
    signs = decide(comparisons(report))
    assert {key[1:] for key, sign in signs.items() if sign} == {("MDLM", "AR"), ("MDLM", "real stories")}
    report["arms"]["MDLM"]["poor"] = "short"
    assert not any(decide(comparisons(report)).values())
