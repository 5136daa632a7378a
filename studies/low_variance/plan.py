"""Two objectives as jobs: trainings of one seed share their subset, start, order of rows and masks.

`arche-mdlm study low-variance --data stories.jsonl --dry_run`
"""

from dataclasses import dataclass

from arche_mdlm.studies.engine.jobs import Plan
from arche_mdlm.studies.engine.small.plan import OneSizeSettings, subset_job, training_job, whole_plan

OBJECTIVES = ("nelbo", "low_variance")


@dataclass(frozen=True, kw_only=True)
class LowVarianceSettings(OneSizeSettings):
    """The settings of `arche-mdlm study low-variance`."""

    unique_tokens: int = 3_000_000


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
    return whole_plan(settings, jobs, trainings, "arche_mdlm.studies.low_variance.jobs:summarise")
