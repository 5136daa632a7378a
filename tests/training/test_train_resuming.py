"""Runs that are stopped, killed or branched off, and go on bit for bit."""

import errno
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small_runs import ARMS, MUON, UNIFORM, assert_same_run, figures, losses, needs_muon

from arche_mdlm.training import train
from arche_mdlm.training.loop import trainer as loop
from arche_mdlm.training.loop.trainer import Trainer


@pytest.mark.parametrize("arm", ARMS)
def test_an_interrupted_run_equals_one_that_was_not(whole, arguments, tmp_path, arm):
    assert train.main(arguments(arm, "--stop_after", "3")) == 0
    assert losses(tmp_path / "run") == losses(whole(arm))[:3]
    assert train.main(arguments(arm, "--resume", "--stop_after", "4")) == 0
    assert train.main(arguments(arm, "--resume")) == 0
    assert_same_run(tmp_path / "run", whole(arm))


def test_a_run_stopped_between_two_log_entries_loses_no_count(arguments, tmp_path):
    """Tokens, losses and operations of the steps behind the last entry are in the checkpoint."""
    seldom = {"training__log_every": 3, "training__eval_every": 8, "training__save_every": 8}
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert train.main(arguments("mdlm", output_dir=whole, **seldom)) == 0
    for more in ([], ["--resume"], ["--resume"], ["--resume"]):
        assert train.main(arguments("mdlm", "--stop_after", "2", *more, output_dir=parts, **seldom)) == 0
    assert len(losses(whole)) == 3
    assert_same_run(parts, whole)
    states = [json.loads((run / "checkpoint-000008" / "trainer_state.json").read_text()) for run in (parts, whole)]
    for key in ("tokens", "supervised", "window"):
        left, right = (
            {k: v for k, v in s[key].items() if k != "seconds"} if key == "window" else s[key] for s in states
        )
        assert left == right, key
    assert states[0]["tokens"] == sum(entry.get("tokens", 0) for entry in figures(parts))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_goes_on(whole, arguments, tmp_path, monkeypatch, number):
    real = Trainer._step

    def step(self, batch):
        if self.state.step == 4:
            signal.raise_signal(number)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        assert train.main(arguments("mdlm")) == 130
    assert (tmp_path / "run" / "checkpoint-000005").is_dir()
    assert train.main(arguments("mdlm", "--resume")) == 0
    assert_same_run(tmp_path / "run", whole("mdlm"))


KILLED = """
import os, signal, sys
from arche_mdlm.training import train
from arche_mdlm.training.loop.trainer import Trainer
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm

real = Trainer._write

def write(self, aside, tensors):
    real(self, aside, tensors)
    if self.state.step == 8:
        (aside / "trainer_state.json").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

Trainer._write = write
train.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, arguments, tmp_path):
    """SIGKILL while a checkpoint is being written."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments("mdlm")], env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert any(name.endswith(".part") for name in left)
    assert {name for name in left if name.startswith("checkpoint")} == {"checkpoint-000004"}

    assert train.main(arguments("mdlm", "--resume")) == 0

    assert_same_run(tmp_path / "run", whole("mdlm"))
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(whole, arguments, tmp_path, monkeypatch, capsys):
    real = loop.save_arm

    def save_arm(model, tokenizer, folder, **settings):
        real(model, tokenizer, folder, **settings)
        if "checkpoint-000008" in folder.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_arm", save_arm)
        assert train.main(arguments("mdlm")) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob(".*.part"))
    assert train.main(arguments("mdlm", "--resume")) == 0
    assert_same_run(tmp_path / "run", whole("mdlm"))


def test_a_curriculum_resumes_bit_for_bit(arguments, tmp_path, capsys):
    """Stopped within it: the temperature is a function of the step."""
    own = UNIFORM | {"training__curriculum_steps": 6, "training__curriculum_tau": [0.02, 0.001]}
    assert train.main(arguments("mdlm", output_dir=tmp_path / "whole", **own)) == 0
    assert "the first 6 steps (training.curriculum_steps) is not a bound" in capsys.readouterr().err
    assert train.main(arguments("mdlm", "--stop_after", "3", **own)) == 0
    assert train.main(arguments("mdlm", "--resume", **own)) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@needs_muon
@pytest.mark.parametrize("arm", ARMS)
def test_muon_resumes_bit_for_bit(arguments, tmp_path, arm):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main(arguments(arm, output_dir=whole, **MUON)) == 0
    assert train.main(arguments(arm, "--stop_after", "5", output_dir=halves, **MUON)) == 0
    assert train.main(arguments(arm, "--resume", output_dir=halves, **MUON)) == 0
    assert_same_run(whole, halves)
    states = torch.load(whole / "checkpoint-000008" / "optimizer.pt", weights_only=True)["optimizers"]
    assert "momentum_buffer" in states[1]["state"]["model.layers.0.self_attn.q_proj.weight"]
    log = json.loads((whole / "training_log.json").read_text(encoding="utf-8"))
    assert all(math.isfinite(entry["loss"]) for entry in log if "loss" in entry)


@needs_muon
def test_a_branch_is_the_run_of_its_length(arguments, tmp_path):
    """A long run kept at its peak rate, and a short one that leaves it: the weights of a run that was short all along."""
    trunk, branch, short = (tmp_path / name for name in ("trunk", "branch", "short"))
    long = MUON | {"training__max_steps": 16, "training__branches": [6], "training__keep_checkpoints": 1}
    brief = MUON | {"training__max_steps": 6}
    assert train.main(arguments("mdlm", output_dir=trunk, **long)) == 0
    assert (trunk / "checkpoint-000003").is_dir()
    assert train.main(arguments("mdlm", "--branch_from", str(trunk), output_dir=branch, **brief)) == 0
    assert train.main(arguments("mdlm", output_dir=short, **brief)) == 0
    mine, theirs = (load_file(run / "checkpoint-000006" / "model.safetensors") for run in (branch, short))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
