"""The jobs of the study of two objectives: the start of a seed, the trainings that go on from it, and the summary."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from arche_mdlm.metrics.tokens.bigram import fit_bigram
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.studies.engine.small.curves import Curve, run_figures, steps_to, subsets_of
from arche_mdlm.studies.engine.small.subsets import HALVES, evaluated_rows, rows_of, tokenizer_of, train
from arche_mdlm.training.loop.trainer import TrainingDiverged

RATIOS = ("log_ratio", "log_ratio_with_start")
By = dict[str, dict[float, dict]]  # results of a seed's trainings, by objective and rate


def start(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """As `subsets.train`; and `unigram`: nats a token of the law of single tokens on the same held-out rows.

    Its law is that of the training rows. The padded tail costs it nothing, which a model has to learn: so it is rather too low.
    """
    result = train(settings, inputs, folder)
    tokenizer = tokenizer_of(inputs)
    rows = rows_of("train", tokenizer, settings, inputs, folder)[:]["input_ids"]
    held_out = [row for half in HALVES for row in evaluated_rows(half, tokenizer, settings, inputs, folder)]
    law = replace(fit_bigram(rows, len(tokenizer)), weight=0.0)
    return result | {"unigram": law.nats_per_token(held_out)}


def go_on(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """As `subsets.train`, from the start; only `diverged`, the reason, where the rate is too high for the training."""
    try:
        return train(settings, inputs, folder)
    except TrainingDiverged as error:
        return {"diverged": str(error)}


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Each objective at its best rates, paired by seed, with intervals over the seeds whose start is past the plateau."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})


def summary(settings: dict, results: Mapping[str, dict]) -> dict:
    """As `summarise`, of results by the names of the jobs."""
    trainings = settings["trainings"]
    missing = [name for name in (*settings["starts"].values(), *trainings) if name not in results]
    starts = {
        seed: _start(results[name], settings["plateau_margin"])
        for seed, name in settings["starts"].items() if name in results
    }  # fmt: skip
    seeds, poor = {}, {seed: own["on_plateau"] for seed, own in starts.items() if own["on_plateau"]}
    for seed, own in starts.items():
        runs = _of_seed(seed, trainings, results)
        if runs is None:  # an objective that is tuned in part would lose unfairly
            continue
        whole = {o: [r for r, run in by_rate.items() if "diverged" not in run] for o, by_rate in runs.items()}
        lost = [objective for objective, rates in whole.items() if not rates]
        if lost:
            poor.setdefault(seed, f"every training by {' and '.join(lost)} diverged")
        else:
            seeds[seed] = _pair(runs, own)
    good = {seed: own for seed, own in seeds.items() if seed not in poor}
    done = {name: about for name, about in trainings.items() if name in results}
    report = {
        "starts": starts, "by_seed": seeds, "poor": poor, "missing": missing,
        "rates": _rates(done, results, good),
        "clipping": _clipping([run for run in results.values() if "history" in run], settings["clip_norm"]),
        "diverged": [name for name in done if "diverged" in results[name]],
        "runs": {name: about | run_figures(results[name]) for name, about in done.items() if "diverged" not in results[name]},
        "subsets": subsets_of(trainings, results),
    }  # fmt: skip
    if good:
        report |= {key: over_seeds([own[key] for own in good.values()]) for key in (*RATIOS, "difference")}
    return report


def _start(result: dict, margin: float) -> dict:
    """Bound at the end, the unigram's nats a token, and `on_plateau`: why it is there, or None."""
    bound, unigram = float(Curve.of(result["history"]).held_out[-1]), result["unigram"]
    why = f"at its start the bound, {bound:.3f} nats a token, is not {margin:g} below the unigram's {unigram:.3f}: on the plateau"
    past = bound < unigram - margin
    return {"bound": bound, "unigram": unigram, "steps": result["steps"], "flops": result["steps"] * _step_flops(result),
            "on_plateau": None if past else why}  # fmt: skip


def _of_seed(seed: str, trainings: Mapping[str, dict], results: Mapping[str, dict]) -> By | None:
    """None where one is missing."""
    found: By = {}
    for name, about in trainings.items():
        if str(about["seed"]) == seed:
            if name not in results:
                return None
            found.setdefault(about["objective"], {})[about["rate"]] = results[name]
    return found


def _pair(runs: By, start: dict) -> dict:
    """`low_variance` beside `nelbo`, each at its best rate: that with the lowest bound on one half of the held-out rows is measured on
    the other half, and the other way round (`ways`); the figures are means of both."""
    ways = [_way(runs, start["flops"], choosing) for choosing in range(2)]
    names = ("difference", *RATIOS)
    return {"ways": ways, **{name: (ways[0][name] + ways[1][name]) / 2 for name in names}}


def _way(runs: By, before: float, choosing: int) -> dict:
    """Chosen on one half, measured on the other. `bound`: the worse one of the two trainings' best bounds, which both reach; `steps`
    and `flops` to it; `difference` of the last bounds; logarithms of the ratio of FLOPs, without and with those of the start."""
    rates, curves, flops = {}, {}, {}
    for objective, by_rate in runs.items():
        own = {rate: Curve.of(run["history"]) for rate, run in by_rate.items() if "diverged" not in run}
        rates[objective] = best = min(own, key=lambda rate: own[rate].halves[choosing].min())
        curves[objective] = replace(own[best], halves=own[best].halves[[1 - choosing]])
        flops[objective] = _step_flops(by_rate[best])
    bound = max(float(curve.held_out.min()) for curve in curves.values())
    steps = {objective: _reached(curve, bound) for objective, curve in curves.items()}
    spent = {objective: steps[objective] * flops[objective] for objective in steps}
    last = {objective: float(curve.held_out[-1]) for objective, curve in curves.items()}
    return {"rates": rates, "bound": bound, "steps": steps, "last": last,
            "difference": last["low_variance"] - last["nelbo"],
            "log_ratio": math.log(spent["low_variance"] / spent["nelbo"]),
            "log_ratio_with_start": math.log((before + spent["low_variance"]) / (before + spent["nelbo"]))}  # fmt: skip


def _reached(curve: Curve, bound: float) -> float:
    steps = steps_to(curve, bound)
    assert steps is not None, "it comes to it"
    return steps


def _step_flops(result: dict) -> float:
    """Floating-point operations of a step, mean over those that the log has."""
    logged = [entry for entry in result["history"] if "tflop_per_second" in entry]
    return 1e12 * sum(entry["tflop_per_second"] * entry["seconds"] for entry in logged) / result["steps"]


def _rates(done: Mapping[str, dict], results: Mapping[str, dict], good: Mapping[str, dict]) -> dict:
    """By objective and rate, over the seeds that count: the mean bound at each evaluation, the last one with its interval, how many
    trainings diverged, how often the rate was the best (twice a seed), and FLOPs a step."""
    found: dict[str, dict] = {}
    for about in done.values():
        objective, rate = about["objective"], about["rate"]
        if str(rate) in found.setdefault(objective, {}):
            continue
        own = [results[name] for name, other in done.items()
               if (other["objective"], other["rate"]) == (objective, rate) and str(other["seed"]) in good]  # fmt: skip
        whole = [run for run in own if "diverged" not in run]
        curves = [Curve.of(run["history"]) for run in whole]
        chosen = sum(way["rates"][objective] == rate for seed in good.values() for way in seed["ways"])
        found[objective][str(rate)] = {
            "diverged": len(own) - len(whole),
            "chosen": chosen,
            "steps": list(curves[0].steps) if curves else [],
            "held_out": _mean(curves),
            "last": over_seeds([float(curve.held_out[-1]) for curve in curves]) if curves else None,
            "step_flops": sum(map(_step_flops, whole)) / len(whole) if whole else None,
        }
    return found


def _mean(curves: list[Curve]) -> list[float]:
    return [sum(values) / len(curves) for values in zip(*(curve.held_out.tolist() for curve in curves), strict=True)]


def _clipping(runs: list[dict], clip_norm: float) -> dict:
    """Of the windows of the logs: how many there are, in how many the mean norm of gradients is above `clip_norm`, and the largest."""
    norms = [entry["grad_norm"] for run in runs for entry in run["history"] if "grad_norm" in entry]
    return {
        "windows": len(norms),
        "binding": sum(norm > clip_norm for norm in norms),
        "largest": max(norms, default=None),
    }
