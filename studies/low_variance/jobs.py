"""The summary of the study of two objectives; its other jobs are those of `studies.engine.small.subsets`."""

import math
from collections.abc import Mapping
from pathlib import Path

from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import Curve, run_figures, steps_to, subsets_of


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Each objective's curves, and differences paired by seed with intervals."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """As `summarise`, of results by the names of the jobs."""
    curves: dict[str, dict[str, Curve]] = {}
    runs: dict[str, dict] = {}
    for name, about in settings["trainings"].items():
        if name in results:
            curves.setdefault(about["objective"], {})[str(about["seed"])] = Curve.of(results[name]["history"])
            runs[name] = about | run_figures(results[name])
    found = {}
    for objective, by_seed in curves.items():
        own = list(by_seed.values())
        band = [over_seeds([float(curve.held_out[index]) for curve in own]) for index in range(len(own[0].steps))]
        last = {seed: float(curve.held_out[-1]) for seed, curve in by_seed.items()}
        found[objective] = {"steps": list(own[0].steps), "tokens": list(own[0].tokens), "held_out": band, "last": last}
    pairs = {seed: (curves["nelbo"][seed], other) for seed, other in curves.get("low_variance", {}).items()
             if seed in curves.get("nelbo", {})}  # fmt: skip
    differences = {seed: _pair(*pair) for seed, pair in pairs.items()}
    report = {
        "objectives": found,
        "runs": runs,
        "by_seed": differences,
        "missing": [n for n in settings["trainings"] if n not in results],
    }
    if differences:
        report["difference"] = over_seeds([own["difference"] for own in differences.values()])
        report["log_ratio"] = over_seeds([own["log_ratio"] for own in differences.values()])
    return report | {"subsets": subsets_of(settings["trainings"], results)}


def _pair(base: Curve, other: Curve) -> dict:
    """Last bound of `other` minus that of `base`; and the logarithm of the steps of `other` over those of `base` at which they come to
    the bound that both reach: the worse one of their best."""
    bound = max(float(base.held_out.min()), float(other.held_out.min()))
    own, its = steps_to(other, bound), steps_to(base, bound)
    assert own is not None, "it comes to it"
    assert its is not None, "it comes to it"
    return {"difference": float(other.held_out[-1] - base.held_out[-1]), "bound": bound, "steps": {"nelbo": its, "low_variance": own},
            "log_ratio": math.log(own / its)}  # fmt: skip
