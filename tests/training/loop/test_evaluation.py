"""Evaluation reads memory-mapped rows, with results equal to those of the likelihoods of lists."""

import json
import warnings

import numpy as np
import pytest

from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.loop.evaluation import Evaluator, some_rows
from arche_mdlm.training.models import arms


@pytest.fixture(params=["rows", "packed"])
def rows(request, tokenizer, tmp_path):
    stories = [f"{'abcde' * (n % 3 + 1)} {n}" for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    prepared = prepare_data(
        tmp_path / "a.jsonl", tokenizer, layout=request.param, context_length=24, cache_dir=tmp_path / "cache"
    )
    # The tokenizer has 300 tokens, the models know 40.
    return prepared.dataset.map(lambda row: {"input_ids": [0, *(4 + i % 36 for i in row["input_ids"][1:])]})


@pytest.mark.parametrize("arm", ["mdlm", "ar"])
def test_rows_are_read_where_they_lie(rows, arm, tiny_mdlm, tiny_ar, monkeypatch):
    model, name = (tiny_mdlm, "corpus_nelbo") if arm == "mdlm" else (tiny_ar, "corpus_nll")
    real, seen = getattr(arms, name), []
    monkeypatch.setattr(arms, name, lambda model, rows, **rest: seen.append((rows, rest)) or real(model, rows, **rest))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = Evaluator(rows, 24, 2, max_rows=7)(model)

    (given, rest), expected = seen[0], rows[:7]
    assert len(given) == 7
    for row, other in zip(given, expected["input_ids"], strict=True):
        assert isinstance(row, np.ndarray)
        assert not row.flags.owndata, "a view, no copy"
        assert row.tolist() == other
    assert rest["num_bytes"] == expected.get("num_bytes")
    if arm == "mdlm":
        rest["generator"].manual_seed(rest["generator"].initial_seed())
    assert result["validation_nats"] == real(model, expected["input_ids"], **rest).nats_per_token


def test_training_rows_are_chosen_by_the_seed(rows):
    chosen = some_rows(rows, 4, 0)["input_ids"]
    assert chosen == some_rows(rows, 4, 0)["input_ids"] != some_rows(rows, 4, 1)["input_ids"]
    every = rows["input_ids"]
    places = [every.index(row) for row in chosen]
    assert places == sorted(places)
    assert some_rows(rows, len(rows), 0)["input_ids"] == every
    drawn = [tuple(map(tuple, some_rows(rows, 2, seed)["input_ids"])) for seed in range(40)]
    assert {row for pair in drawn for row in pair} == set(map(tuple, every))


@pytest.mark.parametrize("arm", ["mdlm", "ar"])
def test_training_rows_are_scored_as_held_out_ones_are(rows, arm, tiny_mdlm, tiny_ar):
    model = tiny_mdlm if arm == "mdlm" else tiny_ar
    evaluator = Evaluator(rows, 24, 2)
    held_out, trained = evaluator(model), evaluator.on_training_rows(model)
    for name in ("nats", "standard_error", "bits_per_byte"):
        assert trained[f"train_{name}"] == held_out[f"validation_{name}"]
