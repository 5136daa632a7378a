"""The log of a checkpoint's training, and what it has cost: its own, and those of what it started from."""

import json
from pathlib import Path
from typing import Any

LOG = "training_log.json"


def training_log(checkpoint: str | Path) -> dict[str, Any] | None:
    """The training log of a checkpoint folder; None without one written by this library, ValueError for a damaged file."""
    path = Path(checkpoint) / LOG
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return found if isinstance(found, dict) and {"run", "history"} <= set(found) else None


def cost_of(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """`steps`, `tokens` (read, padding not counted), `tflop` (of matrix products) and `before`, the same of what it was started from, all
    trainings before that one added up, or None. None where the folder has no log."""
    log = None if checkpoint is None else training_log(checkpoint)
    if log is None:
        return None
    steps = [entry for entry in log["history"] if "tflop_per_second" in entry]
    return {
        "steps": max((entry["step"] for entry in steps), default=0),
        "tokens": sum(entry["tokens"] for entry in steps),
        "tflop": sum(entry["tflop_per_second"] * entry["seconds"] for entry in steps),
        "before": log["run"].get("before"),
    }


def total_cost(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """The same with the trainings before added; None where the folder has no log."""
    own = cost_of(checkpoint)
    if own is None:
        return None
    before = own.pop("before")
    return own if before is None else {key: value + before[key] for key, value in own.items()}
