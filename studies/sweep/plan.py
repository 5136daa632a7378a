"""A sweep as jobs: both arms with each learning rate, each length of the decay and each batch size, the others as in the base.

`arche-mdlm study sweep --data stories.jsonl --dry_run`
"""

import math
from dataclasses import dataclass

from arche_mdlm.studies.engine.jobs import Plan
from arche_mdlm.studies.engine.small.plan import (
    OneSizeSettings,
    rates_times,
    subset_job,
    training_job,
    whole_plan,
    without_rates,
)
from arche_mdlm.studies.sweep.factors import ARMS, FACTORS
from arche_mdlm.training.arguments import parse_changes

_OWN = (
    "schedule",
    "decay_share",
    "min_lr_ratio",
    "clip_norm",
    "batch_size",
    "seed",
    "max_steps",
)  # that the study sets


@dataclass(frozen=True, kw_only=True)
class SweepSettings(OneSizeSettings):
    """The settings of `arche-mdlm study sweep`. The base has the rates of the preset, the first decay share and `batch_size`."""

    seeds: tuple[int, ...] = (0, 1)
    positions: int = 5_000_000
    unique_tokens: int = 3_000_000
    rates: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)  # times those of the preset, of both optimisers
    decay_shares: tuple[float, ...] = (0.2, 0.5, 0.8)
    batch_sizes: tuple[int, ...] = (8, 16, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("rates", math.inf), ("decay_shares", 1), ("batch_sizes", math.inf)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or not all(0 < value < most for value in values):
                below = "" if most == math.inf else f" and below {most}"
                raise ValueError(f"{name}={list(values)} must be different numbers above 0{below}")
        for name, base in (("rates", 1.0), ("batch_sizes", self.batch_size)):
            if base not in getattr(self, name):
                raise ValueError(f"{name}={list(getattr(self, name))} must contain {base}, the base of the comparison")
        for key in parse_changes(self.changes):
            if key.removeprefix("training.") in _OWN:
                raise ValueError(f"changes={list(self.changes)}: {key} is set by the sweep")
        for size in self.batch_sizes:
            replace_batch(self, size)  # or its ValueError

    @property
    def base(self) -> dict[str, float]:
        """By factor the value that the other factors are varied at."""
        return {"rate": 1.0, "decay_share": self.decay_shares[0], "batch_size": self.batch_size}

    @property
    def points(self) -> list[dict[str, float]]:
        """All combinations that are trained: one factor at a time differs from the base, which is the first."""
        found = [self.base]
        for factor, values in zip(FACTORS, (self.rates, self.decay_shares, self.batch_sizes), strict=True):
            found += [self.base | {factor: value} for value in values if value != self.base[factor]]
        return found


def replace_batch(settings: OneSizeSettings, size: int) -> OneSizeSettings:
    """The same positions in batches of another size, at rates that a point sets; ValueError where these are fewer steps than evaluations."""
    own = {name: getattr(settings, name) for name in OneSizeSettings.__dataclass_fields__}
    return OneSizeSettings(**own | {"batch_size": size, "changes": without_rates(settings.changes)})


def build_plan(settings: SweepSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates; a seed's before those of the next one. ValueError for settings of no model."""
    jobs, trainings = [], {}
    for seed in settings.seeds:
        subset = subset_job(settings, settings.unique_tokens, seed)
        jobs.append(subset)
        for arm in ARMS:
            for point in settings.points:
                label = f"{arm}-r{point['rate']:g}-d{point['decay_share']:g}-b{point['batch_size']:g}"
                own = replace_batch(settings, int(point["batch_size"]))
                job = training_job(own, subset, arm, label, device, **changes(settings, arm, point))
                trainings[job.name] = {"arm": arm, "seed": seed, "subset": subset.name, **point}
                jobs.append(job)
    return whole_plan(settings, jobs, trainings, "arche_mdlm.studies.sweep.jobs:summarise", {"base": settings.base})


def changes(settings: SweepSettings, arm: str, point: dict[str, float]) -> dict[str, float | str]:
    """Settings of the preset for a point: the rates of both optimisers, and a decay to 0."""
    rates = rates_times(settings, arm, point["rate"])
    return {**rates, "training.schedule": "warmup_stable_decay", "training.min_lr_ratio": 0.0,
            "training.decay_share": point["decay_share"], "training.clip_norm": 4.0}  # fmt: skip
