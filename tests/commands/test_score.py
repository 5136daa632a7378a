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


def pairs_file(path: Path, pairs: list) -> Path:
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in pairs), encoding="utf-8")
    return path


PAIRS = [("Once upon a time there was", " a dog."), ("Tom ran home. He", " was sad."), ("", "The cat sat.")]
COLUMNS = ["--prompt_column", "prompt", "--text_column", "completion"]


def test_completions_are_scored_given_their_prompts(tmp_path, capsys):
    file = pairs_file(tmp_path / "pairs.jsonl", [*PAIRS, ("The dog ran. " * 300, " Yes.")])
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(file), *COLUMNS]) == 0
    printed = capsys.readouterr().out
    model, tokenizer = load_arm(CHECKPOINTS / "ar-tinystories-mini")
    nats = tokens = 0.0
    for prompt, completion in PAIRS:
        whole, given = (tokenizer(text)["input_ids"] for text in (prompt + completion, prompt))
        before = nll(model, torch.tensor([given])) if len(given) > 1 else 0
        nats, tokens = nats + float(nll(model, torch.tensor([whole])) - before), tokens + len(whole) - len(given)
    assert "3 completions, " in printed
    assert "1 longer with their prompts than the context of 256 left out" in printed
    found = re.search(
        r"NLL given the prompts: ([0-9.]+) nats a token, [0-9.]+ bits a byte, ([0-9.]+) nats a comp", printed
    )
    assert float(found[1]) == pytest.approx(nats / tokens, abs=1e-4)
    assert float(found[2]) == pytest.approx(nats / 3, abs=0.1)


def test_the_bound_of_completions_is_below_that_of_whole_texts(tmp_path, capsys):
    file = pairs_file(tmp_path / "pairs.jsonl", PAIRS[:2])
    assert main(["score", str(CHECKPOINTS / "mdlm-tinystories-mini"), str(file), *COLUMNS, "--num_samples", "4"]) == 0
    assert re.search(
        r"2 completions, \d+ tokens\nNELBO, an upper bound on the NLL given the prompts: [0-9.]+ \+- 0",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("pairs", "own", "why"),
    [
        ([("The cat", "")], [], "the completion of pair 1 is empty; it needs at least one character"),
        ([("a", "b"), (None, "c")], [], "the prompt of pair 2 is null; give a text"),
        ([("cat " * 300, " sat")], [], "no pair fits the context of 256 tokens"),
        (PAIRS, ["--long_documents", "chunk"], "--long_documents chunk works only for whole texts"),
    ],
)
def test_bad_pairs_are_one_line(tmp_path, capsys, pairs, own, why):
    file = pairs_file(tmp_path / "pairs.jsonl", pairs)
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(file), *COLUMNS, *own]) == 2
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_pairs_need_columns(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a")
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(tmp_path / "texts.txt"), *COLUMNS]) == 2
    assert "--prompt_column needs a jsonl, json, csv or parquet file" in capsys.readouterr().err
    file = pairs_file(tmp_path / "pairs.jsonl", PAIRS)
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(file), "--prompt_column", "question"]) == 2
    assert "question" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing.txt", "nothing.pdf", ""])
def test_a_file_that_is_not_there_is_named(tmp_path, capsys, name):
    assert main(["score", str(CHECKPOINTS / "ar-tinystories-mini"), str(tmp_path / name) if name else ""]) == 2
    assert capsys.readouterr().err.count("\n") == 1
