"""Two objectives as jobs: a seed's trainings share their subset, the weights that they begin from, the order of rows and the masks.

`arche-mdlm study low-variance --data stories.jsonl --dry_run`

Claim of Sahoo et al. 2026 (arXiv 2602.15014): the objective `low_variance` (weight 1) needs about 12 % fewer FLOPs than `nelbo`.
A small MDLM stays at the law of single tokens for some time before it learns more. How long that takes is chance and would
hide the difference, so one training a seed goes past it, and both objectives go on from its weights, at several rates each.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.small.plan import (
    OneSizeSettings,
    rates_times,
    subset_job,
    training_job,
    whole_plan,
    without_rates,
)
from arche_mdlm.training.arguments import parse_changes
from arche_mdlm.training.command_line import LARGEST_SEED

OBJECTIVES = ("nelbo", "low_variance")
_JOBS = "arche_mdlm.studies.low_variance.jobs"
_OWN = {"training.objective": "it is what is compared", "training.seed": "give --seeds", "training.clip_norm": "give --clip_norm"}  # fmt: skip
_FARTHER = (
    1_000_000  # from a start's seed to that of the trainings behind it: other rows and masks than it has just seen
)


@dataclass(frozen=True, kw_only=True)
class LowVarianceSettings(OneSizeSettings):
    """The settings of `arche-mdlm study low-variance`.

    Args:
        start_positions: of the training that both objectives go on from.
        rates: multipliers of the preset's learning rates, AdamW's and Muon's; each objective has its best.
        clip_norm: of gradients; the default clips none.
        plateau_margin: nats a token; a start is past the plateau where its bound is so far below the unigram's.
    """

    seeds: tuple[int, ...] = tuple(range(11))
    positions: int = 10_000_000
    unique_tokens: int = 3_000_000
    start_positions: int = 5_000_000
    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    clip_norm: float = 1e9
    plateau_margin: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.start_positions // (self.batch_size * self.context_length)
        if steps < self.evaluations:
            raise ValueError(
                f"start_positions={self.start_positions} are {steps} steps, fewer than evaluations={self.evaluations}"
            )
        if not self.rates or len(set(self.rates)) < len(self.rates) or min(self.rates) <= 0:
            raise ValueError(f"rates={list(self.rates)} must be different numbers above 0")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be above 0")
        if not self.plateau_margin >= 0:
            raise ValueError(f"plateau_margin={self.plateau_margin} must be at least 0")
        for key in parse_changes(self.changes):
            if key in _OWN:
                raise ValueError(f"changes={list(self.changes)}: {key} cannot be set here, {_OWN[key]}")


def build_plan(settings: LowVarianceSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates: a subset and a start a seed, and each objective at each rate from there."""
    jobs, trainings, starts = [], {}, {}
    for seed in settings.seeds:
        subset = subset_job(settings, settings.unique_tokens, seed)
        start = _start(settings, subset, device)
        starts[str(seed)] = start.name
        jobs += [subset, start]
        for objective, rate, job in _trainings(settings, subset, start, device):
            trainings[job.name] = {"objective": objective, "rate": rate, "seed": seed, "subset": subset.name}
            jobs.append(job)
    kept = {"starts": starts, "plateau_margin": settings.plateau_margin, "clip_norm": settings.clip_norm}
    return whole_plan(settings, jobs, trainings, f"{_JOBS}:summarise", kept)


def _start(settings: LowVarianceSettings, subset: Job, device: str) -> Job:
    """The training by `nelbo`, at the preset's rates, that a seed's others go on from."""
    own = replace(settings, positions=settings.start_positions)
    job = training_job(own, subset, "mdlm", "start", device, **_changes(settings, "nelbo"))
    return replace(job, function=f"{_JOBS}:start")


def _trainings(settings: LowVarianceSettings, subset: Job, start: Job, device: str) -> Iterator[tuple[str, float, Job]]:
    rated = replace(settings, changes=without_rates(settings.changes))
    seed = (subset.settings["seed"] + _FARTHER) % (LARGEST_SEED + 1)
    for objective in OBJECTIVES:
        for rate in settings.rates:
            own = _changes(settings, objective) | {"training.seed": seed} | rates_times(settings, "mdlm", rate)
            job = training_job(rated, subset, "mdlm", f"{objective}-x{rate:g}", device, **own)
            own_settings = job.settings | {"start": start.name}
            yield (
                objective,
                rate,
                replace(job, function=f"{_JOBS}:go_on", needs=(*job.needs, start.name), settings=own_settings),
            )


def _changes(settings: LowVarianceSettings, objective: str) -> dict[str, float | str]:
    return {"training.objective": objective, "training.clip_norm": settings.clip_norm}
