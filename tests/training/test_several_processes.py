"""Runs of two processes give the losses and figures of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import MODEL

from arche_mdlm.training import train

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    **MODEL,
    "training.max_steps": 4,
    "training.batch_size": 8,
    "training.warmup_steps": 2,
    "training.eval_every": 2,
    "training.log_every": 1,
}
UNIFORM = {
    "model.config.diffusion": "uniform",
    "model.config.time_conditioning": "log_snr",
    "training.objective": "nelbo",
}
TEXTS = [{"text": f"{name} {verb} {where}."} for name in ("Tim", "Sue", "Ann", "Bob") for verb in ("ran", "sat", "saw", "hid")
         for where in ("home", "to me", "a cat", "red", "it")]  # fmt: skip
PROMPTS = [{"prompt": f"{a} and {b}?", "completion": " yes" * (a % 3 + 1)} for a in range(9) for b in range(9)]
CASES = {
    "accumulation": (TEXTS, {"training.accumulation": 2}, []),
    "prompts for epochs": (PROMPTS, {"training.max_steps": None, "training.epochs": 0.5}, ["--report_to", "tensorboard"]),
    "curriculum": (TEXTS, UNIFORM | {"training.curriculum_steps": 3, "training.curriculum_tau": [0.02, 0.001]}, []),
    "distillation": (TEXTS, UNIFORM | {"training.distillation_steps": 2}, ["--init_from"]),
    "eso": (TEXTS, {"model.config.diffusion": "eso", "model.config.alpha_0": 0.5}, []),
}  # fmt: skip


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """The command line of a run by its output folder."""
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))

    def make(rows: list[dict], changes: dict, output: str, *more: str) -> list[str]:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        line = ["--preset", "quickstart-mdlm", "--data", str(data), "--output_dir", str(tmp_path / output), *more]
        settings = {name: value for name, value in (SETTINGS | changes).items() if value is not None}
        for key, value in settings.items():
            line += ["--set", f"{key}={json.dumps(value)}"]
        return line

    return make


def launched(line: list[str]) -> subprocess.CompletedProcess:
    """`training/train.py` in two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(port), str(REPOSITORY / "training" / "train.py"), *line]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def figures(folder: Path) -> list[dict]:
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in log]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.long] * (case != "accumulation")) for case in CASES]
)
def test_two_processes_give_the_figures_of_one(arguments, tmp_path, case):
    rows, changes, more = CASES[case]
    if "--init_from" in more:
        assert train.main(arguments(rows, UNIFORM, "teacher")) == 0
        more = [*more, str(tmp_path / "teacher" / "final")]
    assert train.main(arguments(rows, {**changes, "training.accumulation": 1}, "one", *more)) == 0

    process = launched(arguments(rows, changes, "two", *more))

    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))["processes"] == 2
    one, two = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert len(one) == len(two) >= 4
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    if "--report_to" in more:
        assert list((tmp_path / "two").rglob("events.out.tfevents*")), "the tracker has written"
