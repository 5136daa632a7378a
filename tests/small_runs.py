"""Settings and files of small runs, for the tests of `training/train.py`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import MODEL

SETTINGS = {
    **MODEL,
    "training.max_steps": 8,
    "training.batch_size": 8,
    "training.warmup_steps": 2,
    "training.eval_every": 4,
    "training.save_every": 4,
    "training.log_every": 1,
}


ARMS = ("mdlm", "ar")


def sentences(names, verbs) -> list[str]:
    return [f"{n} {v} {w}." for n in names for v in verbs for w in ("home", "to me", "a cat", "red")]


def figures(folder: Path) -> list[dict]:
    """The run's log without times."""
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in log]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in figures(folder) if "loss" in entry]


def weights(folder: Path, step: int = 8) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step:06d}" / "model.safetensors")


def assert_same_run(folder: Path, other: Path) -> None:
    """Bit for bit: losses, validation figures, weights, optimiser."""
    assert figures(folder) == figures(other)
    mine, theirs = weights(folder), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    states = [
        torch.load(run / "checkpoint-000008" / "optimizer.pt", weights_only=True)["optimizers"][0]["state"]
        for run in (folder, other)
    ]
    for mine, theirs in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


UNIFORM = {
    "model__config__diffusion": "uniform",
    "model__config__time_conditioning": "log_snr",
    "training__objective": "nelbo",
}


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")


MUON = {"training__optimizer": "muon", "training__schedule": "warmup_stable_decay", "training__decay_share": 0.5}
