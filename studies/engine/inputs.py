"""The results of needed jobs, as a job reads them."""

import json
from pathlib import Path

from arche_mdlm.writing.sample_file import read_records

SAMPLES = "samples.jsonl"  # the texts of a job that writes some


def result_of(folder: Path) -> dict:
    """The result of a finished job."""
    return _record(folder)["result"]


def seconds_taken(folder: Path) -> float:
    """By a finished job, since it was last begun."""
    return _record(folder)["seconds"]


def _record(folder: Path) -> dict:
    return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def read_samples(folder: Path) -> list[dict]:
    """The stories that a finished job has written."""
    return read_records(folder / SAMPLES)
