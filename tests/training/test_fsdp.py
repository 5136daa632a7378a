"""FSDP2 with two processes on a CPU: the run of one process, and checkpoints that either of them writes and reads."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from arche_mdlm.training import train

REPOSITORY = Path(__file__).parents[2]
LAUNCH_FILE = REPOSITORY / "configuration" / "accelerate" / "fsdp2_8_gpus.yaml"
SETTINGS = {
    "data.vocab_size": 280,
    "data.context_length": 32,
    "data.validation_fraction": 0.2,
    "model.config.vocab_size": 280,
    "model.config.hidden_size": 32,
    "model.config.intermediate_size": 64,
    "model.config.num_hidden_layers": 2,
    "model.config.max_position_embeddings": 32,
    "training.max_steps": 6,
    "training.batch_size": 8,
    "training.accumulation": 2,
    "training.warmup_steps": 2,
    "training.eval_every": 2,
    "training.save_every": 2,
    "training.log_every": 1,
    "training.keep_checkpoints": 9,
}
ARMS = ("mdlm", "ar")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a corpus and a cache of its own."""
    folder = tmp_path_factory.mktemp("fsdp")
    texts = [
        f"{n} {v} {w}."
        for n in ("Tim", "Sue", "Ann", "Bob", "A dog")
        for v in ("ran", "sat", "saw", "hid")
        for w in ("home", "to me", "a cat", "red")
    ]
    (folder / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def arguments(workplace):
    def make(arm: str, output_dir: Path, *more: str, **changes) -> list[str]:
        settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
        line = ["--preset", f"quickstart-{arm}", "--data", str(workplace / "stories.jsonl")]
        for key, value in settings.items():
            line += ["--set", f"{key}={json.dumps(value)}"]
        return [*line, "--output_dir", str(output_dir), *more]

    return make


def launch(arguments: list[str], *options: str) -> subprocess.CompletedProcess:
    """`training/train.py` in two processes with the launch file that ships, its GPUs aside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH_FILE)]
    command += ["--num_processes", "2", "--dynamo_backend", "no", "--main_process_port", str(port), *options]
    command += [str(REPOSITORY / "training" / "train.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def run(arguments: list[str], *options: str) -> None:
    process = launch(arguments, *options)
    assert process.returncode == 0, process.stderr[-3000:]


def figures(folder: Path, name: str) -> list[float]:
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    return [entry[name] for entry in log if name in entry]


def assert_close_runs(folder: Path, other: Path) -> None:
    for name in ("loss", "grad_norm", "validation_nats", "validation_standard_error", "tokens", "supervised"):
        mine = figures(folder, name)
        assert len(mine) in (3, 6)
        assert mine == pytest.approx(figures(other, name), abs=1e-5, rel=1e-5), name


def assert_close_checkpoints(folder: Path, other: Path, step: int = 6) -> None:
    """Weights, and the optimiser's states in their places; all of them as on one process."""
    folder, other = (run / f"checkpoint-{step:06d}" for run in (folder, other))
    mine, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-4, msg=name)
    states = [torch.load(path / "optimizer.pt", weights_only=True)["optimizer"] for path in (folder, other)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for number, values in states[1]["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(states[0]["state"][number][name], value, atol=1e-4, rtol=1e-3)
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}
    assert (folder / "config.json").read_text() == (other / "config.json").read_text()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("arm", ARMS)
def test_sharded_over_two_processes_is_the_run_of_one(arguments, tmp_path, arm):
    """Tied weights; losses, norms, evaluation, checkpoint. Then each goes on from the other's checkpoint."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(arguments(arm, one)) == 0
    run(arguments(arm, two, "--stop_after", "4"))
    assert json.loads((two / "run.json").read_text(encoding="utf-8"))["processes"] == 2
    whole = AutoModelForCausalLM.from_pretrained(two / "checkpoint-000004")
    assert type(whole).__name__ in ("MDLMForMaskedDiffusion", "LlamaForCausalLM")
    assert_close_checkpoints(two, one, step=4)

    back = tmp_path / "back"
    back.mkdir()
    for name in ("checkpoint-000004", "run.json"):
        (back / name).symlink_to(two / name)
    assert train.main(arguments(arm, back, "--resume")) == 0  # of two, by one
    run(arguments(arm, two, "--resume"))  # of two, by two

    for folder in (two, back):
        assert_close_runs(folder, one)
        assert_close_checkpoints(folder, one)


@pytest.mark.timeout(900)
def test_averages_an_untied_head_and_checkpointed_layers(arguments, tmp_path):
    """As one process, and what one process wrote is gone on from by two."""
    changes = {"training__ema_decay": 0.5, "model__config__tie_word_embeddings": False}
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(arguments("mdlm", two, "--stop_after", "2", **changes)) == 0
    assert train.main(arguments("mdlm", one, **changes)) == 0
    run(arguments("mdlm", two, "--resume", **changes), "--fsdp_activation_checkpointing", "true")

    assert_close_runs(two, one)
    assert_close_checkpoints(two, one)
    saved = [torch.load(path / "checkpoint-000006" / "optimizer.pt", weights_only=True) for path in (one, two)]
    assert saved[0]["ema"]["n_averaged"] == saved[1]["ema"]["n_averaged"] == 6
    for part in ("ema", "model"):
        assert saved[0][part].keys() == saved[1][part].keys()
        for name, value in saved[0][part].items():
            torch.testing.assert_close(saved[1][part][name], value, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (["--fsdp_version", "1"], {}, "fsdp_version=1"),
        (["--fsdp_offload_params", "true"], {}, "fsdp_offload_params=true"),
        ([], {"training__compile": True}, "training.compile=true"),
    ],
)
def test_what_was_never_tried_is_refused(arguments, tmp_path, options, changes, message):
    process = launch(arguments("mdlm", tmp_path / "run", **changes), *options)
    assert process.returncode != 0
    assert f"error: {message}" in process.stderr
    assert "is not supported" in process.stderr
