"""The summary of the speed-quality study; its other jobs are those of `studies.engine.texts`."""

from pathlib import Path

import torch
import transformers

from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.texts import machine, row_figures


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The report's figures: every row's, and what the jobs have found by name."""
    results = {name: result_of(path) for name, path in inputs.items()}
    return {
        "checkpoints": settings["checkpoints"],
        "judge": results[settings["rows"][0]["judged"]]["judge"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": machine(settings["device"], settings["threads"]),
        "rows": [row_figures(row, results) for row in settings["rows"]],
        "reference": results.get("reference"),
        "cells": results,
    }
