"""Two objectives as jobs: trainings of one seed share their subset, start, order of rows and masks.

`arche-mdlm study low-variance --data stories.jsonl --dry_run`
"""

from dataclasses import dataclass

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.keys import data_hash
from arche_mdlm.studies.engine.settings import check_least
from arche_mdlm.studies.engine.small.plan import SubsetSettings, subset_job, training_job

OBJECTIVES = ("nelbo", "low_variance")
_JOBS = "arche_mdlm.studies.low_variance.jobs"


@dataclass(frozen=True, kw_only=True)
class LowVarianceSettings(SubsetSettings):
    """The settings of `arche-mdlm study low-variance`."""

    unique_tokens: int = 3_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"unique_tokens": 1000})


def build_plan(settings: LowVarianceSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates; a seed's before those of the next one."""
    jobs, trainings = [], {}
    for seed in settings.seeds:
        subset = subset_job(settings, settings.unique_tokens, seed)
        jobs.append(subset)
        for objective in OBJECTIVES:
            job = training_job(settings, subset, "mdlm", objective, device, **{"training.objective": objective})
            trainings[job.name] = {"objective": objective, "seed": seed, "subset": subset.name}
            jobs.append(job)
    needs = tuple(job.name for job in jobs)
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", {"trainings": trainings}, needs, 5.0, tolerant=True))
    preset = load_preset("mini-mdlm", {"data.source": settings.data})
    return Plan(tuple(jobs), data_hash(preset, settings.validation_data))
