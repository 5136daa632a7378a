"""A run is asked and answered in types; the command line is one way to ask."""

import json
from pathlib import Path

import pytest

from arche_mdlm.configuration.presets import NULL
from arche_mdlm.training import run as run_module
from arche_mdlm.training import train
from arche_mdlm.training.arguments import build_parser, request_of
from arche_mdlm.training.request import TrainingRequest, TrainingResult
from arche_mdlm.training.run import run

CHANGES = {"training.max_steps": 3, "training.batch_size": 4, "training.eval_rows": 4, "model.config.hidden_size": 16,
           "model.config.num_hidden_layers": 1, "model.config.intermediate_size": 16}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(tmp_path_factory.mktemp("run") / "cache"))
        yield


def request(output_dir: Path, **more) -> TrainingRequest:
    return TrainingRequest(preset="quickstart-ar", changes=CHANGES, output_dir=output_dir, **more)


def test_a_run_is_stopped_and_goes_on(tmp_path):
    assert run(request(tmp_path, stop_after=2)) == TrainingResult(tmp_path, 2, complete=False, interrupted=False)
    assert not (tmp_path / "final").exists()
    assert run(request(tmp_path, resume=True)) == TrainingResult(tmp_path, 3, complete=True, interrupted=False)
    assert (tmp_path / "final" / "model.safetensors").is_file()
    assert "command:" not in (tmp_path / "final" / "README.md").read_text(encoding="utf-8")  # nobody typed one


def test_the_record_has_the_command_that_was_given(tmp_path):
    line = ["--preset", "quickstart-ar", *(f"--set={key}={value}" for key, value in CHANGES.items())]
    assert train.main([*line, "--stop_after", "1", "--output_dir", str(tmp_path / "run")]) == 0
    described = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert described["command"] == " ".join(["training/train.py", *line, "--stop_after", "1", "--output_dir", "run"])


def test_a_signal_is_told_from_a_stop(tmp_path, monkeypatch):
    stop = run_module.Trainer._agreed_to_stop
    monkeypatch.setattr(run_module.Trainer, "_agreed_to_stop", lambda self: setattr(self, "_stop", True) or stop(self))
    assert run(request(tmp_path)) == TrainingResult(tmp_path, 1, complete=False, interrupted=True)


def test_errors_are_exceptions(tmp_path):
    with pytest.raises(ValueError, match="preset=.nothing. is not one of"):
        run(TrainingRequest(preset="nothing", output_dir=tmp_path))
    (tmp_path / "run.json").write_text("mine")
    with pytest.raises(ValueError, match="which no run has written"):
        run(request(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop_after": 0}, "--stop_after=0 must be at least 1"),
        ({"save_dtype": "int8"}, "--save_dtype='int8' must be one of"),
    ],
)
def test_a_wrong_request_is_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingRequest(**wrong)


def test_the_command_line_builds_the_request():
    line = ["--preset", "mini-ar", "--data", "a.jsonl", "--validation_data", "b.jsonl", "--output_dir", "runs/x", "--resume",
            "--save_dtype", "bfloat16", "--stop_after", "7", "--max_steps", "9", "--set", "training.seed=3"]  # fmt: skip
    assert request_of(build_parser().parse_args(line)) == TrainingRequest(
        preset="mini-ar",
        changes={"data.source": "a.jsonl", "training.max_steps": 9, "training.seed": 3},
        validation_data="b.jsonl",
        output_dir=Path("runs/x"),
        resume=True,
        save_dtype="bfloat16",
        stop_after=7,
    )
    assert request_of(build_parser().parse_args([])) == TrainingRequest()


@pytest.mark.parametrize(("train_rows", "rows", "expected"), [(7, None, 7), (7, 4, 4), (3, 4, 3), (None, 4, None)])
def test_no_more_training_rows_are_scored_than_held_out_ones(tmp_path, monkeypatch, train_rows, rows, expected):
    scored = []

    class Stopped(Exception):
        pass

    def trainer(*args):
        scored.append(args[-1] and len(args[-1].rows))
        raise Stopped

    monkeypatch.setattr(run_module, "Trainer", trainer)
    changes = CHANGES | {"training.eval_train_rows": train_rows or NULL, "training.eval_rows": rows or NULL}
    with pytest.raises(Stopped):
        run(TrainingRequest(preset="quickstart-ar", changes=changes, output_dir=tmp_path))
    assert scored == [expected]
