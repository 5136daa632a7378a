"""Differences between models, with the intervals that decide them."""

from typing import Any

import numpy as np

from arche_mdlm.studies.engine.readings.intervals import Interval, ratio_interval


def compare(models: dict[str, dict], rows: list[dict], seed: int) -> dict[str, Any]:
    """Differences in nats a token, first minus second, on the same stories, each with its interval over these.

    `bounds`: of a diffusion model's bound to the lowest one. `exact`: of its exact likelihood from left to right, if it has one, to AR's.
    `own`: of the same to its own bound. `faster`: how many times as many stories a second as AR, of the slowest call to AR's
    fastest. Absent where figures are.
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
            found.append({
                "label": row["label"], "steps": row["steps"], "batch_size": size,
                "estimate": speed["median"] / other["median"],
                "low": speed["low"] / other["high"], "high": speed["high"] / other["low"],
            })  # fmt: skip
    return found
