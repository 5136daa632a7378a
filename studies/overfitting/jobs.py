"""The summary of the study of overfitting; its other jobs are those of `studies.engine.small.subsets`."""

from collections.abc import Mapping
from pathlib import Path

from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import Curve, run_figures, subsets_of

ARMS = ("ar", "mdlm")
STATISTICS = ("rise", "late_gain", "gap")


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Each arm's curves and figures by seed, with intervals over seeds; MDLM minus AR, paired by seed; what they decide."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """As `summarise`, of results by the names of the jobs."""
    found: dict[str, dict] = {}
    for arm in ARMS:
        own = {name: about for name, about in settings["trainings"].items() if about["arm"] == arm and name in results}
        if own:
            found[arm] = _arm(own, results)
    both = [seed for seed in found["ar"]["seeds"] if seed in found["mdlm"]["seeds"]] if len(found) == 2 else []
    differences = {}
    for name in STATISTICS:
        values = [found["mdlm"]["seeds"][seed][name] - found["ar"]["seeds"][seed][name] for seed in both]
        if values:
            differences[name] = over_seeds(values)
    trainings = settings["trainings"]
    missing = [name for name in trainings if name not in results]
    return {"arms": found, "differences": differences, "subsets": subsets_of(trainings, results), "missing": missing}


def _arm(own: Mapping[str, dict], results: Mapping[str, dict]) -> dict:
    seeds, curves = {}, []
    for name, about in own.items():
        curve, run = Curve.of(results[name]["history"]), results[name]
        curves.append(curve)
        best = curve.best()
        seeds[str(about["seed"])] = {
            "rise": curve.rise(), "late_gain": curve.late_gain(), "gap": curve.gap(),
            "best_step": curve.steps[best], "best": float(curve.held_out[best]), "last": float(curve.held_out[-1]),
            "train": curve.train.tolist(), "held_out": curve.held_out.tolist(), "halves": curve.halves.tolist(),
            **run_figures(run),
        }  # fmt: skip
    grid = range(len(curves[0].steps))
    bands = {
        part: [over_seeds([float(getattr(curve, part)[index]) for curve in curves]) for index in grid]
        for part in ("train", "held_out")
    }
    means = {
        name: over_seeds([one[name] for one in seeds.values()]) for name in (*STATISTICS, "best", "last", "best_step")
    }
    return {
        "seeds": seeds,
        "steps": list(curves[0].steps),
        "tokens": list(curves[0].tokens),
        "bands": bands,
        "means": means,
    }
