"""Few unique tokens as jobs: MDLM, and AR over weight decay and dropout, on the same random subset a seed and size.

`arche-mdlm study data-limited --data stories.jsonl --dry_run`

Claim of Prabhudesai et al. 2025 (arXiv 2507.15857) and Ni et al. 2025 (arXiv 2511.03276): where unique data is scarce and epochs are
many, diffusion reaches a lower loss than AR. AR is tuned here, as a regularised one overfits later, and is evaluated more often,
as its minimum comes early. A training of it ends well behind its own minimum: what comes later tells nothing.
"""

import math
from dataclasses import dataclass, replace
from itertools import product

from arche_mdlm.configuration.presets import preset_from_dict
from arche_mdlm.studies.data_limited.summary import exact_name
from arche_mdlm.studies.engine.estimates import forward_seconds
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.settings import check_least
from arche_mdlm.studies.engine.small.plan import SubsetSettings, subset_job, training_job, whole_plan

_JOBS = "arche_mdlm.studies.data_limited.jobs"
_PAST_BEST = 3.0  # times the step of its own minimum, where a training of AR ends
_MORE_OFTEN = 4  # times as many evaluations of AR


@dataclass(frozen=True, kw_only=True)
class DataLimitedSettings(SubsetSettings):
    """The settings of `arche-mdlm study data-limited`."""

    unique_tokens: tuple[int, ...] = (100_000, 300_000, 1_000_000)
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.3)
    exact_rows: int = 16  # of each half of the held-out rows, scored from left to right
    endings: int = 32  # of each half of the held-out rows, told from corrupted ones

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (
            ("unique_tokens", 1000, math.inf),
            ("weight_decays", 0, math.inf),
            ("dropouts", 0, 0.99),
        ):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or min(values) < least or max(values) > most:
                raise ValueError(f"{name}={list(values)} must be different numbers of at least {least}"
                                 + ("" if most == math.inf else f" and at most {most}"))  # fmt: skip
        check_least(self, {"exact_rows": 1, "endings": 1})
        for name in ("exact_rows", "endings"):
            if getattr(self, name) > self.evaluation_rows:
                raise ValueError(f"{name}={getattr(self, name)} must be at most evaluation_rows={self.evaluation_rows}")


def build_plan(settings: DataLimitedSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates; a seed's before those of the next one, the smallest subset first."""
    jobs, trainings = [], {}
    for seed, size in product(settings.seeds, settings.unique_tokens):
        subset = subset_job(settings, size, seed)
        own = _trainings(settings, subset, device)
        for job, about in own:
            training = job.settings["resolved"]["training"]
            planned = {"planned": training["max_steps"], "past_best": training["stop_past_best"]}
            trainings[job.name] = {"seed": seed, "size": size, "subset": subset.name} | planned | about
        jobs += [subset, *(job for job, _ in own), _exact_job(settings, subset, own, device)]
    return whole_plan(settings, jobs, trainings, f"{_JOBS}:summarise")


def _trainings(settings: DataLimitedSettings, subset: Job, device: str) -> list[tuple[Job, dict]]:
    """MDLM, and AR with each pair of weight decay and dropout; with what the report says of each."""
    every = max(1, settings.steps // settings.evaluations)
    mdlm = training_job(settings, subset, "mdlm", "mdlm", device, **_kept(settings, every))
    found: list[tuple[Job, dict]] = [(mdlm, {"arm": "mdlm"})]
    for decay, dropout in product(settings.weight_decays, settings.dropouts):
        about = {"arm": "ar", "weight_decay": decay, "dropout": dropout}
        own = {"training.weight_decay": decay, "model.config.attention_dropout": dropout,
               "training.stop_past_best": _PAST_BEST, **_kept(settings, max(1, every // _MORE_OFTEN))}  # fmt: skip
        job = training_job(settings, subset, "ar", f"ar-wd{decay:g}-do{dropout:g}", device, **own)
        found.append((job, about))
    return [(replace(job, settings=job.settings | {"endings": settings.endings}), about) for job, about in found]


def _kept(settings: DataLimitedSettings, every: int) -> dict[str, float]:
    """Settings of a training that is evaluated so often, and whose best checkpoint may be any of its evaluations."""
    found = {f"training.{name}": every for name in ("log_every", "eval_every", "save_every")}
    return {**found, "training.keep_checkpoints": settings.steps // every + 1}


def _exact_job(settings: DataLimitedSettings, subset: Job, trainings: list[tuple[Job, dict]], device: str) -> Job:
    arms = {job.name: about["arm"] for job, about in trainings}
    preset = preset_from_dict(trainings[0][0].settings["resolved"])
    context = preset.data.context_length
    own = {"arms": arms, "rows": settings.exact_rows, "evaluation_rows": settings.evaluation_rows,
           "context_length": context, "data_seed": subset.settings["seed"]}  # fmt: skip
    seconds = forward_seconds(preset, device, 2 * settings.exact_rows * context)
    return Job(exact_name(subset.name), "exact", f"{_JOBS}:exact", own, (subset.name, *arms), seconds)
