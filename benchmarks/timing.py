"""Timing contestants side by side: in turn, round after round, so that a slower minute slows all of them."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """Speed of one contestant over another's: median, lowest and highest of the rounds."""

    ratio: float
    low: float
    high: float


def interleave(
    contestants: dict[str, Callable[[], None]], rounds: int, device: torch.device, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call, a list of `rounds` a contestant; one round before them is a warm-up and not counted.

    The order turns by one place a round.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(0 if warm_up else 1, rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            _wait(device)
            start = time.perf_counter()
            contestants[name]()
            _wait(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def side_by_side(
    contestants: dict[str, tuple[Callable[[], None], float]], rounds: int, device: torch.device, warm_up: bool = True
) -> dict[str, list[float]]:
    """Units a second of each contestant, (call, units a call), in every round."""
    seconds = interleave({name: call for name, (call, _) in contestants.items()}, rounds, device, warm_up)
    return {name: rates(units, seconds[name]) for name, (_, units) in contestants.items()}


def compare(ours: list[float], reference: list[float]) -> Ratio:
    """How many times as fast `ours` is, from calls of one round each (rates a second, higher is better)."""
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def rates(units: float, seconds: list[float]) -> list[float]:
    """Units a second of each call."""
    return [units / s for s in seconds]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
