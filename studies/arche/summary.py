"""The summary of the paper's protocol: cells over seeds, and the models and texts that are excluded from statements."""

from collections.abc import Mapping, Sequence
from typing import Any

from arche_mdlm.studies.arche.factors import LABELS, LAYOUTS, NAMES
from arche_mdlm.studies.engine.readings.floors import why_poor
from arche_mdlm.studies.engine.readings.intervals import over_seeds

_KEY = ("arm", "layout", "length", "variant")
_RUN = ("parameters", "steps", "best_step", "tokens", "supervised", "seconds", "device", "versions", "history")


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """Of the results by the names of the jobs; `settings` has `cells`, what each job of metrics is of, and `seeds`."""
    fit = {layout: _fit(layout, results) for layout in LAYOUTS}
    models = {(arm, layout): why for layout, own in fit.items() for arm in NAMES if (why := _why_poor_model(own, arm))}
    cells = _cells(settings, results)
    poor = {f"{NAMES[arm]}, {LABELS[layout]}": why for (arm, layout), why in models.items()}
    for cell in cells:
        words = [own["median_words"] for own in cell["seeds"].values() if own]
        why = why_poor(min(words, default=None), None, None)
        cell["poor"] = models.get((cell["arm"], cell["layout"]), why)
        if why:
            poor[", ".join([NAMES[cell["arm"]], *(LABELS[cell[key]] for key in _KEY[1:])])] = why
    training = {name.removeprefix("train-"): {key: result[key] for key in _RUN}
                for name, result in results.items() if name.startswith("train-")}  # fmt: skip
    losses = {name.removeprefix("validation-"): result for name, result in results.items() if "loss_best" in result}
    return {"cells": cells, "training": training, "validation": losses, "fit": fit, "poor": poor}


def _fit(layout: str, results: Mapping[str, dict]) -> dict[str, Any]:
    """`bigram`, and by arm the likelihood of its best checkpoints over seeds, nats per token; None if it was not measured."""
    bigram = results.get(f"bigram-{layout}")
    found: dict[str, Any] = {"bigram": bigram and bigram["nats_per_token"]}
    for arm in NAMES:
        own = [
            result["nats_per_token"]
            for name, result in results.items()
            if name.startswith(f"likelihood-{arm}-{layout}-")
        ]
        found[arm] = over_seeds(own) if own else None
    return found


def _why_poor_model(fit: Mapping[str, Any], arm: str) -> str | None:
    return why_poor(None, fit[arm] and fit[arm]["estimate"], fit["bigram"])


def _cells(settings: dict, results: Mapping[str, dict]) -> list[dict]:
    """`seeds`: figures by seed, None for a failed one; `figures`: their means with Student's intervals. Of one seed they are its own, with
    intervals over texts; of several they need two."""
    cells: dict[tuple, dict] = {}
    for name, about in settings["cells"].items():
        key = tuple(about[part] for part in _KEY)
        cell = cells.setdefault(key, {part: about[part] for part in _KEY} | {"seeds": {}})
        cell["seeds"][str(about["seed"])] = results.get(name)
    for cell in cells.values():
        known = [own for own in cell["seeds"].values() if own]
        if len(settings["seeds"]) == 1:
            cell["figures"] = known[0] if known else None
        else:
            cell["figures"] = _over_seeds(known) if len(known) > 1 else None
    return list(cells.values())


def _over_seeds(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in figures[0]:
        values = [own.get(name) for own in figures]
        if all(isinstance(value, int | float) for value in values):
            interval = over_seeds([float(value) for value in values if value is not None])
            found |= {name: interval["estimate"], f"{name}_ci": [interval["low"], interval["high"]]}
    return found
