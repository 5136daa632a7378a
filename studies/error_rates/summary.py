"""From the jobs' results to the report: curves by steps, and steps needed by length."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.readings.intervals import seeds_interval
from arche_mdlm.studies.error_rates.thresholds import growth_over_seeds, growth_over_texts, means

# With the exact posterior their law tends to the language's as steps grow; the others favour likely text, or fill several at once.
EXACT_IN_THE_LIMIT = ("ancestral", "remdm", "first_hitting", "entropy", "margin")


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """All figures by language, denoiser, sampler and length; a job of the study."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """The report's figures.

    Args:
        settings: `texts`, by name of a job what it measured (`language`, `denoiser`, `sampler`, `length`, `seed`);
            `references` and `trainings` likewise.
        results: of the jobs that have one, by name.
    """
    groups: dict[tuple[str, str, str], dict[int | None, dict[int, dict]]] = {}
    for name, about in settings["texts"].items():
        if name in results:
            key = (about["language"], about["denoiser"], about["sampler"])
            cells = {int(steps): cell for steps, cell in results[name]["cells"].items()}
            groups.setdefault(key, {}).setdefault(about["seed"], {})[about["length"]] = cells
    found = []
    for (language, denoiser, sampler), by_seed in groups.items():
        own: dict[str, Any] = {"language": language, "denoiser": denoiser, "sampler": sampler}
        own["curves"] = _curves(list(by_seed.values()))
        limits = None
        if denoiser == "oracle" and sampler in EXACT_IN_THE_LIMIT:
            limits = _limits(settings["references"], results, language)
        own["limit"] = "the language's own" if limits else "its value at the most steps"
        for measure in ("token", "sequence"):
            if denoiser == "oracle":
                own[measure] = growth_over_texts(by_seed[None], measure, limits)
            else:
                own[measure] = growth_over_seeds(list(by_seed.values()), measure)
        found.append(own)
    kept = ("bound", "entropy", "seconds", "tokens", "steps", "parameters", "device", "versions")
    return {
        "groups": found,
        "references": {
            name: about | results[name] for name, about in settings["references"].items() if name in results
        },
        "trainings": {
            name: about | {key: results[name][key] for key in kept}
            for name, about in settings["trainings"].items()
            if name in results
        },
        "missing": [
            name for part in ("texts", "references", "trainings") for name in settings[part] if name not in results
        ],
    }


def _limits(references: Mapping[str, dict], results: Mapping[str, dict], language: str) -> dict[int, float]:
    """Nats a token of the language's own sequences, by length."""
    return {about["length"]: results[name]["nats"] for name, about in references.items()
            if about["language"] == language and name in results}  # fmt: skip


def _curves(by_seed: list[dict[int, dict]]) -> dict:
    """By length, a list of points by steps: token perplexity, share of impossible sequences, forwards; means over seeds with intervals."""
    curves: dict[str, list] = {}
    for length in sorted({length for own in by_seed for length in own}):
        have = [own[length] for own in by_seed if length in own]
        points = []
        for steps in sorted(have[0]):
            perplexities = [math.exp(means(cells, "nats")[steps]) for cells in have]
            shares = [means(cells, "forbidden")[steps] for cells in have]
            points.append({"steps": steps, "perplexity": _mean(perplexities), "impossible": _mean(shares),
                           "forwards": float(np.mean([cells[steps]["forwards"] for cells in have])),
                           "texts": sum(len(cells[steps]["nats"]) for cells in have)})  # fmt: skip
        curves[str(length)] = points
    return curves


def _mean(values: list[float]) -> dict:
    if len(values) < 2:
        return {"estimate": values[0], "low": None, "high": None}
    return seeds_interval(values)._asdict()
