"""How the results in a study's folder were made: its command, data and jobs, and the command of every training."""

import json
import shlex
import sys
from pathlib import Path

from arche_mdlm.training.provenance import portable


def provenance(study: Path) -> dict:
    """`command`, `data_hash`, `jobs` (keys by name) and `training_commands` of the study in a folder."""
    described = json.loads((Path(study) / "study.json").read_text(encoding="utf-8"))
    trainings = {job["name"]: job["settings"] for job in described["jobs"] if job["kind"] == "train"}
    return {
        "command": " ".join(["arche-mdlm", *map(shlex.quote, portable(sys.argv[1:]))]),
        "data_hash": described["data_hash"],
        "jobs": {job["name"]: job["key"] for job in described["jobs"]},
        "training_commands": {name: _training_command(own) for name, own in trainings.items()},
    }


def _training_command(own: dict) -> str:
    words = ["arche-mdlm", "train", "--preset", own["preset"]]
    for option in ("data", "validation_data"):
        words += [f"--{option}", portable(own[option])] if own[option] is not None else []
    for change in own["changes"]:
        words += ["--set", change]
    return " ".join(map(shlex.quote, words))
