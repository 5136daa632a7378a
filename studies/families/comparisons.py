"""Differences between models, with the intervals that decide them."""

import itertools
import math
from typing import Any

import numpy as np

from arche_mdlm.studies.engine.readings.decisions import Comparison, apart, ratio_of_rates
from arche_mdlm.studies.engine.readings.intervals import Interval, ratio_interval

Key = tuple[str, str, str]  # question, and what is compared


def compare(models: dict[str, dict], rows: list[dict], seed: int) -> dict[str, Any]:
    """Differences in nats a token, first minus second, on the same stories, each with its interval over these.

    `bounds`: of a diffusion model's bound to the lowest one. `exact`: of its exact likelihood from left to right, if it has one, to AR's.
    `own`: of the same to its own bound. `faster`: how many times as many stories a second as AR, geometric means of the
    calls, by Welch's t. Absent where figures are.
    """
    return {
        "bounds": _bounds(models, seed),
        "exact": _exact(models, seed),
        "own": {label: _difference(own["exact"], own["likelihood"], seed)
                for label, own in models.items() if _is_exact(own) and own["likelihood"]},
        "faster": _faster(models, rows),
    }  # fmt: skip


def _bounds(models: dict[str, dict], seed: int) -> dict[str, Any]:
    known = {label: own["likelihood"] for label, own in models.items() if own["is_bound"] and own["likelihood"]}
    if not known:
        return {"lowest": None, "above": {}}
    lowest = min(known, key=lambda label: known[label]["nats_per_token"])
    others = {label: _difference(found, known[lowest], seed) for label, found in known.items() if label != lowest}
    return {"lowest": lowest, "above": others}


def looked_at(report: dict) -> dict[Key, Comparison]:
    """All comparisons behind the sentences of a report, by question and what is compared.

    The lowest bound and the lowest perplexity are chosen by the figures, so all pairs count. Rows that `floors`
    marks are left out.
    """
    found, last = report["comparisons"], {row["label"]: row for row in report["rows"]}
    sound = {label for label, row in last.items() if not row.get("poor")}
    questions: dict[Key, Comparison] = {}
    labels = [
        label for label, own in report["models"].items() if own["is_bound"] and own["likelihood"] and label in sound
    ]
    for one, other in itertools.combinations(labels, 2):
        lowest = found["bounds"]["lowest"]
        first, second = (one, other) if other == lowest else (other, one)
        interval = found["bounds"]["above"].get(first) if second == lowest else None
        questions["bound", first, second] = _of_stories(interval)
    for question in ("exact", "own"):
        for label, interval in found[question].items():
            if label in sound:
                questions[question, label, ""] = _of_stories(interval)
    last = {label: row for label, row in last.items() if label in sound}
    judged = {
        label: row for label, row in last.items() if report["models"][label]["is_bound"] or not report["judged_by_twin"]
    }
    for one, other in itertools.permutations(judged, 2):
        if _perplexity(judged[one]) >= _perplexity(judged[other]):
            questions["perplexity", one, other] = apart(judged[one], judged[other], "generative_perplexity", log=True)
    for label, row in last.items():
        questions["openings", label, ""] = apart(row, report["reference"] or {}, "distinct_openings")
    poor = {(row["label"], row["steps"]) for row in report["rows"] if row.get("poor")}
    for one in found["faster"]:
        if (one["label"], one["steps"]) in poor:
            continue
        questions["speed", one["label"], f"{one['steps']}/{one['batch_size']}"] = Comparison(
            one["log"], one["freedom"], True
        )
    return questions


def _perplexity(row: dict) -> float:
    value = row.get("generative_perplexity")
    return math.inf if value is None else value


def _of_stories(interval: dict | None) -> Comparison:
    return Comparison(interval, None if interval is None else interval["stories"] - 1)


def _exact(models: dict[str, dict], seed: int) -> dict[str, Any]:
    twins = [own["likelihood"] for own in models.values() if not own["is_bound"] and own["likelihood"]]
    if not twins:
        return {}
    return {label: _difference(own["exact"], twins[0], seed) for label, own in models.items() if _is_exact(own)}


def _is_exact(own: dict) -> bool:
    """Not a bound from some of many orders."""
    return own["exact"] is not None and own["exact"]["num_orders"] is None


def _difference(first: dict, second: dict, seed: int) -> dict:
    """Of the nats a token of the stories that both have scored, which are the first ones of each."""
    count = min(len(first["nats"]), len(second["nats"]))
    nats = np.array(first["nats"][:count]) - np.array(second["nats"][:count])
    found = ratio_interval(nats, np.array(first["tokens"][:count]), seed)
    return {**Interval(*found)._asdict(), "stories": count}


def _faster(models: dict[str, dict], rows: list[dict]) -> list[dict]:
    """A row and batch size at a time, where both were called several times."""
    twin = next((row for row in rows if not models[row["label"]]["is_bound"]), None)
    found = []
    for row in rows:
        if twin is None or row is twin:
            continue
        for size, speed in row["stories_per_second"].items():
            other = twin["stories_per_second"].get(size)
            if other is None or min(speed["calls"], other["calls"]) < 2:
                continue
            logs = ratio_of_rates(speed, other)
            if logs.interval is not None:
                ratio = {key: math.exp(value) for key, value in logs.interval.items() if value is not None}
                found.append({"label": row["label"], "steps": row["steps"], "batch_size": size, **ratio,
                              "log": logs.interval, "freedom": logs.freedom})  # fmt: skip
    return found
