"""The comparison, end to end on an untrained pair: every part of the report is there and adds up."""

import json

import pytest
import torch

from arche_mdlm.commands.main import main
from arche_mdlm.configuration.presets import ModelSettings
from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.training.build import build_model
from arche_mdlm.training.loading import save_arm, set_generation_defaults
from arche_mdlm.training.tokenizers_io import train_bpe

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
    assert "The report is in" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:data has")
def test_the_same_seed_gives_the_same_report_and_the_batch_size_no_other_diffusion_stories(pair, tmp_path):
    run(pair, tmp_path / "a")
    run(pair, tmp_path / "b", "--batch_size", "12")
    a, b = (json.loads((tmp_path / n / "report.json").read_text(encoding="utf-8"))["arms"]["MDLM"] for n in "ab")
    assert a["unprompted"] == b["unprompted"]
    assert a["diversity"] == b["diversity"]


def test_bad_input(pair, tmp_path, capsys):
    swapped = ["compare", "--mdlm", str(pair / "ar"), "--ar", str(pair / "mdlm"), "--output", str(tmp_path / "x")]
    assert main(swapped) == 2
    assert "swapped" in capsys.readouterr().err
    assert main(["compare", "--mdlm", str(tmp_path), "--ar", str(pair / "ar")]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert run(pair, tmp_path / "x", "--num_samples", "1") == 2
    assert "--num_samples 1 must be at least 2" in capsys.readouterr().err
    assert run(pair, tmp_path / "x", "--temperature", "0") == 2
    assert "--temperature 0.0 must be above 0" in capsys.readouterr().err
    assert run(pair, tmp_path / "x", "--num_samples", "500", "--references", str(pair / "held_out.jsonl")) == 2
    assert "fewer than 500" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_generate_command(pair, tmp_path, capsys):
    out = tmp_path / "texts.jsonl"
    assert main(["generate", str(pair / "mdlm"), "--prompt", "Tom saw", "--num_samples", "3", "--num_diffusion_steps", "4",
                 "--output", str(out)]) == 0  # fmt: skip
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3
    assert all(line["text"].startswith("Tom saw") for line in lines)
    assert main(["generate", str(pair / "ar"), "--sampler", "ancestral"]) == 2
    assert "is for the diffusion arm" in capsys.readouterr().err
    assert main(["generate", str(pair / "mdlm"), "--sampler", "ancestrl"]) == 2
    assert "did you mean 'ancestral'" in capsys.readouterr().err
