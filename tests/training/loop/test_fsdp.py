"""FSDP2 with two processes on a CPU: equal to a run of one process, with interchangeable checkpoints."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import MODEL
from transformers import AutoModelForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training import train
from arche_mdlm.training.loop.sharding import sharding_plugin

REPOSITORY = Path(__file__).parents[3]
LAUNCH_FILE = REPOSITORY / "configuration" / "accelerate" / "fsdp2_8_gpus.yaml"
SETTINGS = {
    **MODEL,
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(arguments: list[str], *options: str) -> None:
    """`training/train.py` in two processes with the launch file that ships, its GPUs and its bf16 aside."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH_FILE)]
    command += ["--num_processes", "2", "--dynamo_backend", "no", "--mixed_precision", "no"]
    command += ["--main_process_port", str(free_port()), *options]
    command += [str(REPOSITORY / "training" / "train.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
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
    states = [torch.load(path / "optimizer.pt", weights_only=True)["optimizers"][0] for path in (folder, other)]
    groups = [json.dumps(state["param_groups"]) for state in states]  # gathered, a pair is a list
    assert groups[0] == groups[1]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for parameter, values in states[1]["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(states[0]["state"][parameter][name], value, atol=1e-4, rtol=1e-3)
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}
    assert (folder / "config.json").read_text() == (other / "config.json").read_text()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arm", ARMS)
def test_sharded_over_two_processes_is_the_run_of_one(arguments, tmp_path, arm):
    """Tied weights; losses, norms, evaluation, checkpoint. Then each goes on from the other's checkpoint."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(arguments(arm, one)) == 0
    run(arguments(arm, two, "--stop_after", "4"))
    described = json.loads((two / "run.json").read_text(encoding="utf-8"))
    assert (described["processes"], described["strategy"]) == (2, "fsdp2")
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


@pytest.mark.long
@pytest.mark.timeout(900)
def test_averages_an_untied_head_and_checkpointed_layers(arguments, tmp_path):
    """What one process wrote, one and two go on from; evaluated at every step, saved at the last one only."""
    changes = {"training__ema_decay": 0.5, "model__config__tie_word_embeddings": False,
               "training__eval_every": 1, "training__save_every": 6}  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(arguments("mdlm", two, "--stop_after", "2", **changes)) == 0
    path = two / "checkpoint-000002" / "trainer_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(state | {"best_nats": 0.0, "best_step": 2}))  # nothing is better, so nothing is saved
    shutil.copytree(two, one)
    assert train.main(arguments("mdlm", one, "--resume", **changes)) == 0
    run(arguments("mdlm", two, "--resume", **changes), "--fsdp_activation_checkpointing", "true")

    assert not (two / "checkpoint-000004").exists()
    assert_close_runs(two, one)
    assert_close_checkpoints(two, one)
    saved = [torch.load(path / "checkpoint-000006" / "optimizer.pt", weights_only=True) for path in (one, two)]
    assert saved[0]["ema"]["n_averaged"] == saved[1]["ema"]["n_averaged"] == 6
    for part in ("ema", "model"):
        assert saved[0][part].keys() == saved[1][part].keys()
        for name, value in saved[0][part].items():
            torch.testing.assert_close(saved[1][part][name], value, atol=1e-4, rtol=1e-4, msg=name)


SHARDED = """
import json, sys, torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training.models.flops import part_at_labels
from arche_mdlm.training.loop.sharding import full_state, reshard, shard, sharding_plugin

accelerator = Accelerator(cpu=True, mixed_precision="bf16")
plugin = sharding_plugin(accelerator, TrainingSettings())
torch.manual_seed(accelerator.process_index)  # the main process's weights count
model = MDLMForMaskedDiffusion(MDLMConfig(**json.loads(sys.argv[1])))
total = sum(p.numel() for p in model.parameters())
shard(model, accelerator, plugin)
held = torch.tensor(sum(p.to_local().numel() for p in model.parameters()))
batch = torch.load(sys.argv[2])
rows = slice(2 * accelerator.process_index, 2 * accelerator.process_index + 2)
with accelerator.autocast():
    loss = model(**{name: value[rows] for name, value in batch.items()}, num_items_in_batch=torch.tensor(32.0)).loss
loss.backward()
gradients = {n: p.grad.full_tensor() for n, p in model.named_parameters()}
weights = full_state(model)
tied = weights.get("lm_head.weight") is weights.get("model.embed_tokens.weight")
with torch.no_grad(), accelerator.autocast():
    model.eval()(batch["input_ids"])
gathered = not isinstance(model.lm_head.weight, DTensor)
reshard(model)
released = isinstance(model.lm_head.weight, DTensor)
loss = accelerator.reduce(loss.detach(), reduction="mean")
torch.save({"loss": loss, "gradients": gradients, "weights": weights, "tied": tied, "gathered": gathered,
            "released": released, "held": held, "total": total, "selects": part_at_labels(model)},
           f"{sys.argv[3]}/{accelerator.process_index}.pt")
accelerator.wait_for_everyone()
torch.distributed.destroy_process_group()
"""


@pytest.mark.timeout(300)
def test_bf16_parts_hold_half_and_compute_what_a_whole_model_does(tiny_config, tmp_path):
    """Tied weights, one process's initialisation, float32 gradients, the loss as under autocast."""
    config = tiny_config | {"mask_token_id": 3}
    ids, masked = torch.randint(4, 40, (4, 16)), torch.rand(4, 16) < 0.5
    batch = {"input_ids": ids.masked_fill(masked, 3), "labels": ids.masked_fill(~masked, -100)}
    torch.save(batch, tmp_path / "batch.pt")
    (tmp_path / "sharded.py").write_text(SHARDED)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
                                "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    command += [str(tmp_path / "sharded.py"), json.dumps(config), str(tmp_path / "batch.pt"), str(tmp_path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    torch.manual_seed(0)
    whole = MDLMForMaskedDiffusion(MDLMConfig(**config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = whole(**batch, num_items_in_batch=torch.tensor(64.0)).loss
    loss.backward()

    assert sum(part["held"] for part in parts) == parts[0]["total"] == sum(p.numel() for p in whole.parameters())
    assert parts[1]["weights"] == {}, "gathered for the main process alone"
    assert max(part["held"] for part in parts) < 0.51 * parts[0]["total"]
    for part in parts:
        assert part["tied"]
        assert part["gathered"]
        assert part["released"]
        assert part["selects"] == "nothing"
        assert part["loss"].item() == pytest.approx(loss.item(), abs=1e-5)
        for name, parameter in whole.named_parameters():
            assert torch.equal(parts[0]["weights"][name], parameter), name
            assert part["gradients"][name].dtype == torch.float32
            torch.testing.assert_close(part["gradients"][name], parameter.grad, atol=2e-3, rtol=2e-2, msg=name)


@pytest.mark.parametrize(
    ("environment", "precision", "settings", "message"),
    [
        ({"FSDP_VERSION": "1"}, "no", {}, "fsdp_version=1 in the launch file is not supported"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "no", {}, "fsdp_offload_params=true in the launch file is not supported"),
        (
            {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"},
            "no",
            {},
            "fsdp_auto_wrap_policy=SIZE_BASED_WRAP .* not supported",
        ),
        ({}, "fp16", {}, "mixed_precision='fp16' is not supported under FSDP2"),
        ({}, "no", {"compile": True}, "training.compile=true is not supported under FSDP2"),
    ],
)
def test_what_was_never_tried_is_refused(monkeypatch, environment, precision, settings, message):
    for name, value in ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    processes = SimpleNamespace(num_processes=2, mixed_precision=precision)
    with pytest.raises(ValueError, match=message):
        sharding_plugin(processes, TrainingSettings(**settings))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert sharding_plugin(processes, TrainingSettings(**settings)) is None
