"""Options of `accelerate launch` are followed, refused or noted; tested in the environment that it sets."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.training import train
from arche_mdlm.training.launcher import apply_launcher
from arche_mdlm.training.loop.trainer import Trainer

REPOSITORY = Path(__file__).parents[2]
QUICK = ["--preset", "quickstart-mdlm", "--max_steps", "2", "--batch_size", "4", "--set", "training.eval_rows=4"]


def trained(environment: dict, explicit: dict | None = None, preset: str = "quickstart-mdlm"):
    preset = load_preset(preset, explicit)
    result, notes = apply_launcher(preset, explicit or {}, environment)
    return result.training, notes


def test_without_a_launcher_nothing_changes():
    for environment in ({}, {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO",
                             "ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
                             "ACCELERATE_DYNAMO_USE_DYNAMIC": "False", "ACCELERATE_USE_CPU": "False"}):  # fmt: skip
        settings, notes = trained(environment)
        assert (settings, notes) == (load_preset("quickstart-mdlm").training, [])


@pytest.mark.parametrize(
    ("environment", "changes", "note"),
    [
        (
            {"ACCELERATE_MIXED_PRECISION": "bf16"},
            {"mixed_precision": "bf16"},
            "mixed_precision='bf16', from the launcher",
        ),
        (
            {"ACCELERATE_MIXED_PRECISION": "fp16"},
            {"mixed_precision": "fp16"},
            "mixed_precision='fp16', from the launcher",
        ),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            {"accumulation": 4},
            "accumulation=4, from ACCELERATE_GRADIENT",
        ),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {"compile": True}, "compile=True, from dynamo_backend"),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_MODE": "max-autotune"},
            {"compile": True, "compile_mode": "max-autotune"},
            "compile_mode='max-autotune', from dynamo_mode",
        ),
    ],
)
def test_the_launcher_is_honoured_and_the_command_line_wins(environment, changes, note):
    settings, notes = trained(environment)
    for name, value in changes.items():
        assert getattr(settings, name) == value
    assert note in "\n".join(notes)
    own = {"mixed_precision": "no", "accumulation": 2, "compile": False, "compile_mode": "default"}
    explicit = {f"training.{name}": own[name] for name in changes}
    settings, notes = trained(environment, explicit)
    for name in changes:
        assert getattr(settings, name) == own[name]
        assert f"training.{name}={own[name]!r} of the command line is used" in "\n".join(notes)


def test_no_of_the_launcher_is_its_default():
    settings, notes = trained({"ACCELERATE_MIXED_PRECISION": "no"}, preset="controlled-mdlm")
    assert settings.mixed_precision == "bf16"
    assert "for float32 give --mixed_precision no" in notes[0]
    explicit = {"training.mixed_precision": "no"}
    settings, notes = trained({"ACCELERATE_MIXED_PRECISION": "no"}, explicit, preset="controlled-mdlm")
    assert (settings.mixed_precision, notes) == ("no", [])


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision='fp8' of the launcher is not one of no, bf16, fp16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, "dynamo_backend='eager' of the launcher is not supported"),
        ({"ACCELERATE_DYNAMO_USE_FULLGRAPH": "True"}, "dynamo_use_fullgraph in the launch file is not supported"),
        ({"ACCELERATE_DYNAMO_USE_DYNAMIC": "True"}, "dynamo_use_dynamic in the launch file is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed in the launch file is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM in the launch file"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config in the launch file"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS='auto'"),
    ],
)
def test_what_is_not_supported_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        trained(environment)


def test_every_launch_file_is_honoured():
    """The launcher's precision overrides the preset's."""
    import yaml

    for path in (REPOSITORY / "configuration" / "accelerate").glob("*.yaml"):
        asked = yaml.safe_load(path.read_text())["mixed_precision"]
        assert trained({"ACCELERATE_MIXED_PRECISION": asked})[0].mixed_precision == asked, path


@pytest.fixture
def fresh_state(tmp_path, monkeypatch):
    """Accelerate keeps the first precision of a process; the data's cache is the test's."""
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accumulation_of_the_launcher_does_not_scale_the_loss(fresh_state, tmp_path, monkeypatch):
    """Accelerate itself would divide the loss a second time."""
    assert train.main([*QUICK, "--output_dir", str(tmp_path / "one")]) == 0
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert train.main([*QUICK, "--output_dir", str(tmp_path / "two")]) == 0
    logs = [json.loads((tmp_path / name / "training_log.json").read_text()) for name in ("one", "two")]
    norms = [[entry["grad_norm"] for entry in log if "grad_norm" in entry] for log in logs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    run = json.loads((tmp_path / "two" / "run.json").read_text())
    assert run["preset"]["training"]["accumulation"] == 2


def test_bf16_of_the_launcher_is_trained_on_a_cpu(fresh_state, tmp_path, monkeypatch):
    seen = []
    real = Trainer._loss

    def loss(self, inputs):
        seen.append((self.accelerator.mixed_precision, torch.is_autocast_enabled("cpu")))
        return real(self, inputs)

    monkeypatch.setattr(Trainer, "_loss", loss)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train.main([*QUICK, "--output_dir", str(tmp_path / "run")]) == 0
    assert set(seen) == {("bf16", True)}
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["preset"]["training"]["mixed_precision"] == "bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_half_precision_without_a_gpu(fresh_state, tmp_path, capsys):
    line = ["--preset", "quickstart-mdlm", "--output_dir", str(tmp_path / "run"), "--mixed_precision", "fp16"]
    assert train.main(line) == 2
    assert "mixed_precision='fp16' needs a GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
@pytest.mark.parametrize("preset", ["quickstart-mdlm", "quickstart-ar"])
def test_flex_attention_trains_on_a_gpu_only(fresh_state, tmp_path, capsys, preset):
    line = [
        "--preset",
        preset,
        "--output_dir",
        str(tmp_path / "run"),
        "--set",
        "model.config.attn_implementation=flex_attention",
    ]
    assert train.main(line) == 2
    assert (
        "attn_implementation='flex_attention' needs a GPU for training; give sdpa or eager" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_itself(tmp_path):
    """The environment that the installed Accelerate makes is the one that is read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "bf16", "--dynamo_backend", "no", "--main_process_port", str(port)]
    command += [
        str(REPOSITORY / "training" / "train.py"),
        *QUICK,
        "--stop_after",
        "1",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARCHE_MDLM_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "training.mixed_precision='bf16', from the launcher" in process.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["preset"]["training"]["mixed_precision"] == "bf16"
    assert run["device"].startswith("cpu")
