"""The summary of the study of few unique tokens; its other jobs are those of `studies.engine.small.subsets`."""

from collections.abc import Mapping
from pathlib import Path

from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import Curve, crossed_best, run_figures, subsets_of


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Best held-out losses by number of unique tokens, AR's over its settings, and MDLM minus AR, paired by seed."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """As `summarise`, of results by the names of the jobs."""
    about = {name: own for name, own in settings["trainings"].items() if name in results}
    curves = {name: Curve.of(results[name]["history"]) for name in about}
    runs = {name: own | run_figures(results[name]) | _of(curves[name]) for name, own in about.items()}
    whole = _whole(settings["trainings"], about)
    sizes = {str(size): _size(size, about, curves, whole) for size in sorted({own["size"] for own in about.values()})}
    missing = [name for name in settings["trainings"] if name not in results]
    return {"sizes": sizes, "runs": runs, "subsets": subsets_of(about, results), "missing": missing}


def _of(curve: Curve) -> dict:
    best = curve.best()
    return {"grid": list(curve.steps), "held_out": curve.held_out.tolist(), "train": curve.train.tolist(), "best_step": curve.steps[best],
            "best_tokens": curve.tokens[best], "best": float(curve.held_out[best]), "last": float(curve.held_out[-1])}  # fmt: skip


def _whole(planned: Mapping[str, dict], done: Mapping[str, dict]) -> set[tuple[int, int]]:
    """(size, seed) of which every training is there: an AR that is tuned over a part of its settings would lose unfairly."""
    pairs = {(own["size"], own["seed"]) for own in planned.values()}
    return pairs - {(own["size"], own["seed"]) for name, own in planned.items() if name not in done}


def _size(size: int, about: Mapping[str, dict], curves: Mapping[str, Curve], whole: set[tuple[int, int]]) -> dict:
    by_seed: dict[str, dict] = {}
    for seed in sorted(seed for own_size, seed in whole if own_size == size):
        names = [name for name, own in about.items() if (own["size"], own["seed"]) == (size, seed)]
        ar = [name for name in names if about[name]["arm"] == "ar"]
        chosen = min(ar, key=lambda name: curves[name].held_out.min())
        best = {"ar": crossed_best([curves[name] for name in ar]),
                "mdlm": crossed_best([curves[name] for name in names if name not in ar])}  # fmt: skip
        own = {key: about[chosen][key] for key in ("weight_decay", "dropout")}
        by_seed[str(seed)] = best | {"difference": best["mdlm"] - best["ar"], "chosen": own}
    found: dict = {"seeds": by_seed}
    for key in ("ar", "mdlm", "difference"):
        found[key] = over_seeds([one[key] for one in by_seed.values()]) if by_seed else None
    return found
