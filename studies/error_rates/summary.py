"""From the jobs' results to the report: curves by steps, steps needed by length, and what the intervals decide."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from arche_mdlm.studies.engine.intervals import seeds_interval
from arche_mdlm.studies.error_rates.thresholds import FLAT, growth_over_seeds, growth_over_texts, means


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
        for measure in ("token", "sequence"):
            if denoiser == "oracle":
                own[measure] = growth_over_texts(by_seed[None], measure)
            else:
                own[measure] = growth_over_seeds(list(by_seed.values()), measure)
            own[measure]["verdict"] = verdict(own[measure], measure)
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


def verdict(growth: dict, measure: str) -> str:
    """What the interval of the exponent decides: "flat", "grows", "falls", "not decided", or why there is none."""
    low, high = growth["low"], growth["high"]
    if growth["not_reached"]:
        return "not reached"
    if growth["exponent"] is None or low is None or high is None:
        return "no interval"
    if low > -FLAT and high < FLAT:
        return "flat"
    if low > FLAT:
        return "grows"
    return "falls" if high < -FLAT else "not decided"
