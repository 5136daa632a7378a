"""The summary of a sweep; its other jobs are those of `studies.engine.small.subsets`."""

from collections.abc import Mapping
from pathlib import Path

from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import Curve, run_figures, subsets_of
from arche_mdlm.studies.sweep.factors import ARMS, FACTORS


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Held-out loss at the end of each training, by arm, factor and value, and its difference from the base, paired by seed."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """As `summarise`, of results by the names of the jobs."""
    trainings, base = settings["trainings"], settings["base"]
    runs = {name: about | run_figures(results[name]) | _of(results[name]["history"])
            for name, about in trainings.items() if name in results}  # fmt: skip
    arms: dict[str, dict] = {arm: {} for arm in ARMS}
    for arm in ARMS:
        start = _by_seed(runs, arm, base)
        for factor in FACTORS:
            values = sorted({about[factor] for about in trainings.values() if about["arm"] == arm})
            found = {f"{value:g}": _value(start, _by_seed(runs, arm, base | {factor: value})) for value in values}
            arms[arm][factor] = {value: own for value, own in found.items() if own}
    missing = [name for name in trainings if name not in results]
    return {"arms": arms, "base": base, "runs": runs, "subsets": subsets_of(trainings, results), "missing": missing}


def _of(history: list[dict]) -> dict:
    curve = Curve.of(history)
    return {
        "last": float(curve.held_out[-1]),
        "train": float(curve.train[-1]),
        "grad_norms": [e["grad_norm"] for e in history if "grad_norm" in e],
    }


def _by_seed(runs: Mapping[str, dict], arm: str, point: Mapping[str, float]) -> dict[str, dict]:
    wanted = {"arm": arm, **point}
    return {str(run["seed"]): run for run in runs.values() if all(run[key] == value for key, value in wanted.items())}


def _value(start: Mapping[str, dict], runs: Mapping[str, dict]) -> dict | None:
    if not runs:
        return None
    both = [seed for seed in runs if seed in start]
    norms = [norm for run in runs.values() for norm in run["grad_norms"]]
    return {
        "loss": over_seeds([run["last"] for run in runs.values()]),
        "difference": over_seeds([runs[seed]["last"] - start[seed]["last"] for seed in both]) if both else None,
        "grad_norm": sum(norms) / len(norms) if norms else None,
        "seeds": len(runs),
    }
