"""Evaluation reads memory-mapped rows, with results equal to those of the likelihoods of lists."""

import json
import warnings

import numpy as np
import pytest

from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.loop.evaluation import Evaluator
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
