"""The figures of the study of few unique tokens, by number of unique tokens, with intervals over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import (
    Curve,
    chosen_on_halves,
    crossed_best,
    run_figures,
    steps_to,
    subsets_of,
)

ARMS = ("ar", "mdlm")
_LOSSES = ("ar", "mdlm", "difference")


def exact_name(subset: str) -> str:
    """The job with the exact likelihoods of a subset's trainings."""
    return "exact" + subset.removeprefix("subset")


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """By size: best held-out losses, AR's over its settings, exact likelihoods, and MDLM minus AR, paired by seed; each arm's course.

    Args:
        settings: `trainings`: what each is, by the name of its job.
        results: of the jobs that are done, by name.
    """
    planned = settings["trainings"]
    about = {name: own for name, own in planned.items() if name in results}
    curves = {name: Curve.of(results[name]["history"]) for name in about}
    runs = {name: own | run_figures(results[name]) | _of(curves[name]) for name, own in about.items()}
    for run in runs.values():
        run["stopped"] = run["steps"] < run["planned"]
    whole = _whole(planned, about)
    sizes = {}
    for size in sorted({own["size"] for own in about.values()}):
        seeds = {}
        for seed in sorted(seed for own_size, seed in whole if own_size == size):
            own = {name: one for name, one in about.items() if (one["size"], one["seed"]) == (size, seed)}
            seeds[str(seed)] = _seed(own, curves, results)
        sizes[str(size)] = _size(seeds)
    needed = [*planned, *sorted({exact_name(own["subset"]) for own in planned.values()})]
    missing = [name for name in needed if name not in results]
    return {"sizes": sizes, "runs": runs, "subsets": subsets_of(about, results), "missing": missing}


def _of(curve: Curve) -> dict:
    best = curve.best()
    endings = None if curve.endings is None else curve.endings.mean(0).tolist()
    return {"grid": list(curve.steps), "held_out": curve.held_out.tolist(), "train": curve.train.tolist(), "endings": endings,
            "best_step": curve.steps[best], "best_tokens": curve.tokens[best], "best": float(curve.held_out[best]),
            "last": float(curve.held_out[-1])}  # fmt: skip


def _whole(planned: Mapping[str, dict], done: Mapping[str, dict]) -> set[tuple[int, int]]:
    """(size, seed) of which every training is there: an AR that is tuned over a part of its settings would lose unfairly."""
    pairs = {(own["size"], own["seed"]) for own in planned.values()}
    return pairs - {(own["size"], own["seed"]) for name, own in planned.items() if name not in done}


def _seed(about: Mapping[str, dict], curves: Mapping[str, Curve], results: Mapping[str, dict]) -> dict:
    """Of all trainings on one subset."""
    names = {arm: [name for name, own in about.items() if own["arm"] == arm] for arm in ARMS}
    own_curves = {arm: [curves[name] for name in own] for arm, own in names.items()}
    best = {arm: crossed_best(own) for arm, own in own_curves.items()}
    chosen = [names["ar"][which] for which, _ in chosen_on_halves(own_curves["ar"])]
    subset = next(iter(about.values()))["subset"]
    exact = results.get(exact_name(subset))
    return {
        **best,
        "difference": best["mdlm"] - best["ar"],
        "chosen": [{key: about[name][key] for key in ("weight_decay", "dropout")} for name in dict.fromkeys(chosen)],
        "tuned": min(names["ar"], key=lambda name: curves[name].held_out.min()),
        "mdlm_training": names["mdlm"][0],
        "crossed_at": _crossed_at(own_curves["mdlm"][0], best["ar"], results[subset]["tokens"]),
        "left_to_right": None if exact is None else _left_to_right(exact),
        "course": {arm: course(own) for arm, own in own_curves.items()},
    }


def _crossed_at(curve: Curve, loss: float, unique_tokens: int) -> dict | None:
    """The step and the epoch at which MDLM's bound first falls to AR's best loss; None: never."""
    step = steps_to(curve, loss)
    return None if step is None else {"step": step, "epoch": step * curve.tokens[-1] / curve.steps[-1] / unique_tokens}


def _left_to_right(exact: dict) -> dict:
    nats = {arm: exact[arm]["nats"] for arm in ARMS}
    return nats | {"difference": nats["mdlm"] - nats["ar"], "halves": {arm: exact[arm]["halves"] for arm in ARMS}}


def course(curves: Sequence[Curve]) -> dict[str, float]:
    """An arm's figures at its best evaluation, and at the last one of the same training: `best`, `last`, `rise` (last minus best),
    `gap_best`, `gap_last` (held-out minus training loss), and, if measured, `endings_best`, `endings_last`, `endings_change`.

    The training and the evaluation are chosen by the loss on one half of the held-out rows, and all figures are those of the other half;
    and the other way round, and the mean of both.
    """
    halves = []
    for half, (which, step) in enumerate(chosen_on_halves(curves)):
        curve, other = curves[which], 1 - half
        loss, train = curve.halves[other], curve.train
        found = {"best": loss[step], "last": loss[-1], "rise": loss[-1] - loss[step],
                 "gap_best": loss[step] - train[step], "gap_last": loss[-1] - train[-1]}  # fmt: skip
        if curve.endings is not None:
            own = curve.endings[other]
            found |= {"endings_best": own[step], "endings_last": own[-1], "endings_change": own[-1] - own[step]}
        halves.append(found)
    return {name: float(np.mean([own[name] for own in halves])) for name in halves[0]}


def _size(seeds: dict[str, dict]) -> dict:
    """All seeds of a size, with intervals over them; None without finished seeds."""
    ones = list(seeds.values())
    found: dict = {"seeds": seeds}
    found |= {key: over_seeds([one[key] for one in ones]) if ones else None for key in _LOSSES}
    exact = [one["left_to_right"] for one in ones if one["left_to_right"] is not None]
    found["left_to_right"] = {key: over_seeds([one[key] for one in exact]) if exact else None for key in _LOSSES}
    found["left_to_right"]["seeds"] = len(exact)
    found["course"] = {}
    for arm in ARMS if ones else ():
        own = [one["course"][arm] for one in ones]
        found["course"][arm] = {name: over_seeds([one[name] for one in own]) for name in own[0]}
    return found
