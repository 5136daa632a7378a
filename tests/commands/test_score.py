"""`arche-mdlm score`: the figures are those of the library's own likelihoods."""

import json
import re
from pathlib import Path

import pytest
import torch

from arche_mdlm.commands.main import main
from arche_mdlm.metrics.likelihood import nll
from arche_mdlm.training.models.loading import load_arm

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
TEXTS = ["Once upon a time there was a dog.", "Tom ran home. He was sad."]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "texts.jsonl", TEXTS)


def test_an_ar_checkpoint_gives_the_exact_likelihood(file, capsys):
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(file)]) == 0
    printed = capsys.readouterr().out
    model, tokenizer = load_arm(CHECKPOINTS / "ar-tinystories-mini")
    nats = tokens = 0.0
    for text in TEXTS:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        nats, tokens = nats + float(nll(model, ids)), tokens + ids.shape[1] - 1
    found = re.search(r"NLL: ([0-9.]+) nats a token, [0-9.]+ bits a byte, ([0-9.]+) nats a text", printed)
    assert float(found[1]) == pytest.approx(nats / tokens, abs=1e-4)
    assert float(found[2]) == pytest.approx(nats / 2, abs=0.1)


def test_an_mdlm_gives_a_bound_with_its_error_the_same_at_each_call(file, capsys):
    outputs = []
    for _ in range(2):
        assert main(["score", str(CHECKPOINTS / "mdlm-tinystories-mini"), str(file)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert re.search(
        r"2 texts, \d+ tokens\nNELBO, an upper bound on the NLL: [0-9.]+ \+- [0-9.]+ nats a token", outputs[0]
    )


def test_texts_longer_than_the_context_are_counted(file, capsys):
    write(file, [TEXTS[0], "The dog ran. " * 300])
    line = ["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(file)]
    assert main(line) == 0
    assert "1 longer than the context of 256 left out" in capsys.readouterr().out
    assert main([*line, "--long_documents", "chunk"]) == 0
    assert "2 texts" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing.txt", "nothing.pdf", ""])
def test_a_file_that_is_not_there_is_named(tmp_path, capsys, name):
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(tmp_path / name) if name else ""]) == 2
    assert capsys.readouterr().err.count("\n") == 1
