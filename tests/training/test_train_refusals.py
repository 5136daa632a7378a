"""Arguments, folders and checkpoints that `training/train.py` refuses, each in one line."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import MUON, UNIFORM, losses, needs_muon, weights

from arche_mdlm.training import train
from arche_mdlm.training.loop import trainer as loop


def test_a_distillation_without_a_teacher_is_refused(arguments, capsys):
    assert train.main(arguments("mdlm", **UNIFORM | {"training__distillation_steps": 2})) == 2
    assert "training.distillation_steps=2 needs --init_from" in capsys.readouterr().err


def error_of(capsys, line: list[str]) -> str:
    assert train.main(line) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--preset", "mini-mdml"], "preset='mini-mdml' is not one of"),
        (["--preset", "mini-mdml"], "did you mean 'mini-mdlm'?"),
        (["--objective", "nelb"], "training.objective='nelb' is not one of nelbo,"),
        (["--objective", "nelb"], "did you mean 'nelbo'?"),
        (["--objective", "next_token"], "does not work with model.architecture='mdlm'"),
        (["--data", "/nowhere/stories.jsonl"], "/nowhere/stories.jsonl"),
        (["--set", "training.max_step=3"], "training.max_step is not a setting"),
        (["--set", "training.max_steps"], "must be KEY=VALUE"),
        (["--set", "training.max_steps=0"], "training.max_steps=0 must be at least 1"),
        (["--set", "training.batch_size=9", "--accumulation", "2"], "training.batch_size=9 must be a multiple"),
        (["--set", "training.batch_size=5000"], "training.batch_size=5000 is more than the"),
        (
            ["--set", "data.validation_fraction=null"],
            "is one file: give --validation_data FILE",
        ),
        (["--text_column", "story"], "story"),
        (["--init_from", "/nowhere/model"], "/nowhere/model"),
    ],
)
def test_bad_arguments_are_named(arguments, tmp_path, capsys, changes, message):
    assert message in error_of(capsys, arguments("mdlm", *changes))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten_by_chance(whole, arguments, capsys):
    folder = whole("mdlm")
    before = weights(folder)["model.norm.weight"]
    message = error_of(capsys, arguments("mdlm", output_dir=folder))
    assert "already holds a run" in message
    assert "--resume" in message
    assert torch.equal(weights(folder)["model.norm.weight"], before)


def test_overwrite_starts_afresh(arguments, tmp_path):
    for more in ([], ["--overwrite"]):
        assert train.main(arguments("ar", "--stop_after", "1", *more)) == 0
        assert len(losses(tmp_path / "run")) == 1


def test_what_is_no_whole_checkpoint_is_refused(whole, arguments, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "not a checkpoint" in error_of(capsys, arguments("mdlm", "--init_from", str(tmp_path / "empty")))

    broken = tmp_path / "broken"
    shutil.copytree(whole("mdlm") / "final", broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    message = error_of(capsys, arguments("mdlm", "--init_from", str(broken)))
    assert "is incomplete" in message
    assert "model.layers.1.mlp.up_proj.weight" in message

    message = error_of(capsys, arguments("ar", "--init_from", str(whole("mdlm") / "final")))
    assert "holds a mdlm model, but preset 'quickstart-ar' trains llama: an MDLM cannot become an AR model" in message


def test_a_damaged_checkpoint_is_named(arguments, tmp_path, capsys):
    assert train.main(arguments("ar", "--stop_after", "1")) == 0
    (tmp_path / "run" / "checkpoint-000001" / "trainer_state.json").write_text("{")
    assert "trainer_state.json is damaged" in error_of(capsys, arguments("ar", "--resume"))


def test_a_run_without_one_finite_evaluation_ends_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    stock = loop.Trainer.evaluate

    def without_a_number(self):
        evaluator = self.evaluator
        self.evaluator = lambda *a: evaluator(*a) | {"validation_nats": math.nan}
        try:
            return stock(self)
        finally:
            self.evaluator = evaluator

    monkeypatch.setattr(loop.Trainer, "evaluate", without_a_number)
    assert train.main(arguments("ar")) == 2
    assert "was NaN or infinite at every evaluation" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint-000008").is_dir()


@needs_muon
def test_a_branch_that_leaves_nothing_is_refused(arguments, tmp_path, capsys):
    trunk = tmp_path / "trunk"
    assert train.main(arguments("mdlm", output_dir=trunk, **MUON)) == 0
    line = arguments(
        "mdlm", "--branch_from", str(trunk), output_dir=tmp_path / "b", **MUON | {"training__max_steps": 6}
    )
    assert train.main(line) == 2
    assert "no checkpoint of step 3" in capsys.readouterr().err
    longer = arguments(
        "mdlm", "--branch_from", str(trunk), output_dir=tmp_path / "b", **MUON | {"training__max_steps": 16}
    )
    assert train.main(longer) == 2
    assert "shorter run" in capsys.readouterr().err
