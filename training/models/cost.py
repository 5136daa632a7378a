"""What the training of a checkpoint has cost, by its own log, and by those of what it started from."""

import json
from pathlib import Path
from typing import Any

LOG = "training_log.json"


def cost_of(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """`steps`, `tokens` (read, padding not counted), `tflop` (of matrix products) and `before`, the same of what it was started from, all
    trainings before that one added up, or None. None where the folder has no log."""
    path = Path(checkpoint or "") / LOG
    if checkpoint is None or not path.is_file():
        return None
    log = json.loads(path.read_text(encoding="utf-8"))
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
