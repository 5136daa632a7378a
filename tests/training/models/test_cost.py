"""What trainings have cost, by their logs."""

import json

import pytest

from arche_mdlm.training.models.cost import LOG, cost_of, total_cost

OWN = {"steps": 40, "tokens": 300, "tflop": 1.0 * 2 + 2.0 * 4}


def log(folder, before=None):
    entry = {"seconds": 2.0, "tflop_per_second": 1.0, "tokens": 100, "step": 20}
    other = {"seconds": 4.0, "tflop_per_second": 2.0, "tokens": 200, "step": 40}
    folder.mkdir(exist_ok=True)
    run = {} if before is None else {"before": before}
    found = {"run": run, "history": [entry, {"step": 30, "validation_nats": 1.0}, other]}
    (folder / LOG).write_text(json.dumps(found), encoding="utf-8")


def test_steps_tokens_and_operations_are_added_up(tmp_path):
    log(tmp_path / "first")
    assert cost_of(tmp_path / "first") == OWN | {"before": None}
    log(tmp_path / "second", total_cost(tmp_path / "first"))
    assert cost_of(tmp_path / "second") == OWN | {"before": OWN}
    assert total_cost(tmp_path / "second") == {key: 2 * value for key, value in OWN.items()}


def test_a_log_of_others_is_none_of_ours_and_a_damaged_one_is_named(tmp_path):
    """Someone else's file of that name may hold anything."""
    for text in ("[]", "{}", '{"run": {}}', "3"):
        (tmp_path / LOG).write_text(text, encoding="utf-8")
        assert cost_of(tmp_path) is None
    (tmp_path / LOG).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{LOG} is damaged"):
        cost_of(tmp_path)


@pytest.mark.parametrize("checkpoint", [None, "user/model"])
def test_without_a_log_it_is_not_known(checkpoint):
    assert cost_of(checkpoint) is None
    assert total_cost(checkpoint) is None
