"""From the jobs' results to one report: each arm's figures by seed, with intervals, its differences from AR, and how far
it is from held-out stories."""

import math
from typing import Any

import numpy as np

from arche_mdlm.studies.controlled.matched import MATCHED_COLUMNS
from arche_mdlm.studies.engine.readings.floors import why_poor
from arche_mdlm.studies.engine.readings.intervals import Interval, over_seeds, paired_interval, ratio_interval
from arche_mdlm.studies.engine.records import without_prompt

BASE = "ar-seen"  # what the other columns are held against
FIGURES = (
    "distinct_1", "distinct_2", "distinct_3", "distinct_4", "self_bleu", "vocabulary_size", "distinct_first_words",
    "distinct_openings", "repetition_4", "mean_words", "unigram_entropy", "generative_perplexity", "judge_bits_per_byte",
    "longest_copy", "copied_13_grams", "copied_whole", "mauve",
)  # fmt: skip
CUT_FIGURES = (
    "distinct_1",
    "distinct_2",
    "distinct_4",
    "self_bleu",
    "vocabulary_size",
)  # grow with length
DISTANCES = (*CUT_FIGURES, "distinct_first_words", "distinct_openings", "repetition_4", "unigram_entropy",
             "generative_perplexity", "mean_words")  # fmt: skip
LOGARITHMIC = ("generative_perplexity",)
_PAIRED = ("tokens", "unigram_entropy", "longest_copy")  # values a story


def summary(settings: dict, results: dict[str, dict]) -> dict:
    """The report's figures.

    Args:
        settings: `columns`, `first` (the MDLM column that AR is matched with), `seeds`, `scale`, and `about`: column, seed and the rest of each job.
        results: of the jobs that have one, by name.
    """
    about, seeds = settings["about"], list(settings["seeds"])
    supervision = {seed: results.get(f"supervision-s{seed}") for seed in seeds}
    arms = {}
    for column in settings["columns"]:
        own = {name: about[name] for name in about if about[name]["column"] == column and name in results}
        arms[column] = _arm(own, results, seeds)
        arms[column]["missing"] = [name for name in about if about[name]["column"] == column and name not in results]
    check, reference = results.get("check", {}), results.get("references")
    report = {
        "scale": settings["scale"],
        "seeds": seeds,
        "parameters": check.get("parameters"),
        "data": check.get("data"),
        "supervision": {str(seed): found for seed, found in supervision.items() if found},
        "arms": arms,
        "judge": reference and reference["judge"],
        "reference": reference and {key: reference[key] for key in ("figures", "cut", "mean_tokens", "notes")},
    }
    report["bigram"] = results.get("bigram")
    report["poor"] = {column: why for column, arm in arms.items() if (why := _why_poor(arm, report["bigram"]))}
    report["differences"] = {column: _differences(column, about, results) for column in arms if column != BASE}
    known = reference if reference and reference["figures"] else None
    if known:
        report["distances"] = {column: _distances(arm, arms[BASE], known) for column, arm in arms.items()}
    first, matched = settings["first"], [column for column in MATCHED_COLUMNS if column in arms]
    report["at_equal_fit"] = {
        base: {
            "column": first,
            "differences": _differences(first, about, results, base),
            "distances": _distances(arms[first], arms[base], known) if known else {},
        }
        for base in matched
    }
    return report


def _arm(own: dict[str, dict], results: dict, seeds: list[int]) -> dict:
    found: dict[str, dict[str, Any]] = {"training": {}, "likelihood": {}, "samples": {}}
    for name, about in own.items():
        seed, result = str(about["seed"]), results[name]
        if name.startswith("train"):
            kept: tuple[str, ...] = (
                "steps",
                "best_step",
                "tokens",
                "supervised",
                "seconds",
                "parameters",
                "device",
                "versions",
                "history",
                "best_nats",
                "stop_at_nats",
            )
            found["training"][seed] = {key: result[key] for key in kept}
        elif name.startswith("likelihood"):
            over_stories = ratio_interval(result["nats"], result["tokens"])
            kept = ("nats_per_token", "standard_error", "nats_per_story", "bits_per_byte", "bound", "num_stories")
            entry = {key: result[key] for key in kept} | {"nats_per_token_ci": over_stories[1:]}
            found["likelihood"].setdefault(about["checkpoint"], {"seeds": {}})["seeds"][seed] = entry
        elif name.startswith("exact"):
            kept = ("nats_per_token", "nats_per_story", "bits_per_byte", "num_stories")
            interval = ratio_interval(result["nats"], result["tokens"])[1:]
            entry = {key: result[key] for key in kept} | {"nats_per_token_ci": interval}
            found.setdefault("exact", {"seeds": {}})["seeds"][seed] = entry
        elif name.startswith("metrics"):
            entry = {key: result[key] for key in ("figures", "cut", "notes", "mean_tokens", "ended_by_eos")}
            entry["examples"] = [without_prompt(one["text"], one["prompt"]) for one in result["examples"]]
            found["samples"].setdefault(sample_key(about), {"seeds": {}})["seeds"][seed] = entry
    exact = [found["exact"]] if "exact" in found else []
    for group in (*found["likelihood"].values(), *exact):
        names = ("nats_per_token", "nats_per_story", "bits_per_byte")
        group["mean"] = {name: _over_seeds([entry[name] for entry in group["seeds"].values()]) for name in names}
    for group in found["samples"].values():
        entries = group["seeds"].values()
        group["mean"] = {
            name: _figure_over_seeds(name, [(e["figures"] or {}).get(name) for e in entries]) for name in FIGURES
        }
        group["mean_cut"] = {name: _over_seeds([(e["cut"] or {}).get(name) for e in entries]) for name in FIGURES}
        for name in ("mean_tokens", "ended_by_eos"):
            group["mean"][name] = _over_seeds([entry[name] for entry in entries])
    return found


def _why_poor(arm: dict, bigram: dict | None) -> str | None:
    """By the likelihood of the best checkpoints (MDLM's bound, or its exact one from left to right where that is better than a bigram), and by the texts at temperature 1 of the seed whose are shortest."""
    likelihood = arm["likelihood"].get("best")
    key = sample_key({"checkpoint": "best", "prompt": "bos", "temperature": 1.0})
    entries = arm["samples"].get(key, {"seeds": {}})["seeds"].values()
    words = [(entry["figures"] or {"median_words": 0})["median_words"] for entry in entries]
    nats = likelihood and likelihood["mean"]["nats_per_token"]["estimate"]
    floor = bigram["nats_per_token"] if bigram else None
    if (
        bigram and "exact" in arm and nats is not None and nats > floor
    ):  # a bound may be loose, the exact likelihood is not
        nats, floor = arm["exact"]["mean"]["nats_per_token"]["estimate"], bigram["nats_per_token_exact"]
    return why_poor(min(words, default=None), nats, floor)


def sample_key(about: dict) -> str:
    """Of a set of samples: checkpoint, prompt and temperature."""
    return f"{about['checkpoint']}, {about['prompt']}, {about['temperature']}"


def _figure_over_seeds(name: str, values: list) -> dict | None:
    """`_over_seeds`; of a perplexity the geometric mean, its interval on a log scale."""
    if name not in LOGARITHMIC:
        return _over_seeds(values)
    found = _over_seeds([math.log(value) for value in values if value])
    return found and {key: None if value is None else math.exp(value) for key, value in found.items()}


def _over_seeds(values: list) -> dict | None:
    """Mean of one figure a seed, with its interval from two seeds on; None without figures."""
    values = [value for value in values if value is not None]
    return over_seeds(values) if values else None


def _differences(column: str, about: dict, results: dict, base: str = BASE) -> dict:
    """Column minus an AR column, by seed paired by story or prompt, and over the seeds: `likelihood` by checkpoint, `exact` (where MDLM has
    one), `samples` by set of samples and figure."""
    found: dict[str, dict] = {"likelihood": {}, "samples": {}}
    for name, own in about.items():
        partner = name.replace(f"-{column}-s", f"-{base}-s", 1)
        if own["column"] != column or name not in results:
            continue
        if name.startswith("paired"):
            if own["base"] != base:
                continue
            for key, figures in results[name].items():
                for figure, interval in figures.items():
                    _add(found["samples"].setdefault(sample_key(_parsed(key)), {}), figure, own["seed"], interval)
        elif name.startswith("likelihood") and partner in results:
            first, second = results[name], results[partner]
            nats = paired_interval(first["nats"], second["nats"])
            per_token = first["num_stories"] / first["num_tokens"]  # the same stories, and so tokens, in both
            interval = Interval(*(value * per_token for value in nats))
            _add(found["likelihood"], own["checkpoint"], own["seed"], interval._asdict())
        elif name.startswith("metrics") and partner in results:
            first, second = results[name]["per_story"], results[partner]["per_story"]
            for figure in _PAIRED:
                if figure in first and figure in second:
                    interval = paired_interval(first[figure], second[figure])._asdict()
                    _add(found["samples"].setdefault(sample_key(own), {}), figure, own["seed"], interval)
    for group in (
        *found["likelihood"].values(),
        *(g for figures in found["samples"].values() for g in figures.values()),
    ):
        group["mean"] = _over_seeds([interval["estimate"] for interval in group["seeds"].values()])
    if exact := _exact_differences(column, about, results, base):
        found["exact"] = exact
    return found


def _exact_differences(column: str, about: dict, results: dict, base: str) -> dict | None:
    """MDLM's exact left-to-right NLL minus AR's on the same few stories, nats a token: by seed paired by story, and the mean over seeds, whose
    interval holds that over the stories too, as they are few. None where a seed lacks one."""
    pairs = []
    for name, own in about.items():
        partner = f"likelihood-{base}-s{own['seed']}-best"
        if own["column"] == column and name.startswith("exact") and name in results and partner in results:
            pairs.append(
                (str(own["seed"]), results[name], np.asarray(results[partner]["nats"][: len(results[name]["nats"])]))
            )
    if not pairs:
        return None
    per_token = pairs[0][1]["num_stories"] / pairs[0][1]["num_tokens"]  # the same stories in all

    def scaled(interval: Interval) -> dict:
        return Interval(*(value * per_token for value in interval))._asdict()

    seeds = {seed: scaled(paired_interval(exact["nats"], nats)) for seed, exact, nats in pairs}
    over_stories = scaled(
        paired_interval(*(np.mean(part, axis=0) for part in zip(*((e["nats"], n) for _, e, n in pairs), strict=True)))
    )
    mean = _widest([_over_seeds([interval["estimate"] for interval in seeds.values()]), over_stories])
    return {"seeds": seeds, "mean": mean, "stories": pairs[0][1]["num_stories"]}


def _parsed(key: str) -> dict:
    """Of "best-bos-t1.0", as the names of jobs have it."""
    checkpoint, prompt, temperature = key.split("-", 2)
    return {"checkpoint": checkpoint, "prompt": prompt, "temperature": float(temperature.removeprefix("t"))}


def _add(found: dict, label: str, seed: int, interval: dict) -> None:
    found.setdefault(label, {"seeds": {}})["seeds"][str(seed)] = interval


def _distances(arm: dict, base: dict, reference: dict) -> dict:
    """By set of samples and figure: |figure - held-out stories'| over seeds, and how much less (below 0) it is than AR's.

    The stories' figure is the mean over draws. The interval of the comparison with AR holds those of both ends of the spread
    of draws too, so a column is closer or farther only where that does not depend on the draw. (|a - x| - |b - x| is
    monotone in x, so the ends are enough.) Perplexities are compared by their logarithms. Figures that grow with the length of texts are of their first tokens.
    """
    found: dict[str, dict] = {}
    for key, group in arm["samples"].items():
        for figure in DISTANCES:
            part = "cut" if figure in CUT_FIGURES else "figures"
            target = (reference[part] or {}).get(figure)
            own, others = _values(group, part, figure), _values(base["samples"].get(key, {"seeds": {}}), part, figure)
            if target is None or not own:
                continue
            spread = [_scaled(figure, x) for x in reference[part].get(f"{figure}_ci") or (target, target)]
            target = _scaled(figure, target)
            ends = [_over_seeds([abs(own[s] - x) - abs(others[s] - x) for s in own if s in others])
                    for x in (target, *spread)]  # fmt: skip
            found.setdefault(key, {})[figure] = {
                "distance": _over_seeds([abs(value - target) for value in own.values()]),
                "than_base": _widest(ends),
                "reference": target,
                "reference_ci": list(spread),
            }
    return found


def _widest(intervals: list[dict | None]) -> dict | None:
    """The first interval, widened to hold all others."""
    first = intervals[0]
    if first is None or first["low"] is None:
        return first
    known = [interval for interval in intervals if interval]
    return first | {"low": min(one["low"] for one in known), "high": max(one["high"] for one in known)}


def _values(group: dict, part: str, figure: str) -> dict[str, float]:
    """A figure by seed; of a perplexity its logarithm."""
    values = {seed: (entry[part] or {}).get(figure) for seed, entry in group["seeds"].items()}
    return {seed: _scaled(figure, value) for seed, value in values.items() if value is not None}


def _scaled(figure: str, value: float) -> float:
    return math.log(value) if figure in LOGARITHMIC else value
