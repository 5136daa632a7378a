"""Likelihood on a grid of steps: the curve of a training, and what it says of overfitting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arche_mdlm.studies.engine.small.subsets import HALVES

_RUN_FIGURES = ("steps", "tokens", "seconds", "parameters", "device", "versions")


@dataclass(frozen=True)
class Curve:
    """Nats a token at each evaluation of a training; of a diffusion model those of its bound, always with the same masks.

    Args:
        steps, tokens: seen by then.
        train: on rows of the training data.
        halves: on the two halves of the held-out stories, (2, E).
        endings: of each half, the share of rows whose true ending is likelier than a corrupted one, (2, E); None: not measured.
    """

    steps: Sequence[int]
    tokens: Sequence[int]
    train: np.ndarray
    halves: np.ndarray
    endings: np.ndarray | None = None

    @classmethod
    def of(cls, history: Sequence[dict]) -> "Curve":
        """From the log of a training."""
        seen, steps, tokens, parts, endings = 0, [], [], [], []
        for entry in history:
            seen += entry.get("tokens", 0)
            if "parts" in entry:
                steps.append(entry["step"])
                tokens.append(seen)
                parts.append([entry["parts"][name]["nats"] for name in ("train", *HALVES)])
                if "endings" in entry:
                    endings.append([entry["endings"][name]["share"] for name in HALVES])
        values = np.array(parts).T
        return cls(steps, tokens, values[0], values[1:], np.array(endings).T if endings else None)

    @property
    def held_out(self) -> np.ndarray:
        return self.halves.mean(0)

    def rise(self) -> float:
        """Last minus best held-out loss. The step that is best on one half of the stories is measured on the other, and the other
        way round, so that the least of many noisy values does not look better than it is."""
        first, second = self.halves
        return float((second[-1] - second[first.argmin()] + first[-1] - first[second.argmin()]) / 2)

    def late_gain(self) -> float:
        """Held-out loss at three quarters of the steps minus the last one: above 0, it still improves."""
        index = min(range(len(self.steps)), key=lambda i: abs(self.steps[i] - 0.75 * self.steps[-1]))
        return float(self.held_out[index] - self.held_out[-1])

    def gap(self) -> float:
        """Memorisation gap at the end: held-out loss minus that on training rows."""
        return float(self.held_out[-1] - self.train[-1])

    def best(self) -> int:
        """Index of the evaluation with the lowest held-out loss."""
        return int(self.held_out.argmin())


def steps_to(curve: Curve, loss: float) -> float | None:
    """The step at which the held-out loss first falls to `loss`, interpolated on a logarithmic scale; None: never."""
    below = np.flatnonzero(curve.held_out <= loss)
    if not len(below):
        return None
    index = int(below[0])
    if index == 0:
        return float(curve.steps[0])
    high, low = curve.held_out[index - 1], curve.held_out[index]
    share = (high - loss) / (high - low)
    left, right = np.log(curve.steps[index - 1]), np.log(curve.steps[index])
    return float(np.exp(left + share * (right - left)))


def chosen_on_halves(curves: Sequence[Curve]) -> list[tuple[int, int]]:
    """For each half of the held-out stories the training that is best on it, and its evaluation, as indices: to be measured on the other
    half, so that the least of many noisy values does not look better than it is."""
    found = []
    for half in range(2):
        which = int(np.argmin([curve.halves[half].min() for curve in curves]))
        found.append((which, int(curves[which].halves[half].argmin())))
    return found


def crossed_best(curves: Sequence[Curve]) -> float:
    """The least held-out loss of several trainings of one seed, over all their evaluations: chosen on one half of the stories,
    measured on the other, and the other way round."""
    (one, first), (two, second) = chosen_on_halves(curves)
    return float((curves[one].halves[1][first] + curves[two].halves[0][second]) / 2)


def run_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of how a training was made."""
    return {name: result[name] for name in _RUN_FIGURES}


def subsets_of(trainings: Mapping[str, dict], results: Mapping[str, dict]) -> dict[str, dict]:
    """The results of the subsets that trainings (their descriptions by name) were made on."""
    return {own["subset"]: results[own["subset"]] for own in trainings.values() if own["subset"] in results}
