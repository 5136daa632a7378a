"""Overfitting as jobs: a fresh random subset of the stories a seed, both arms trained on it, evaluated on a grid of steps.

`arche-mdlm study overfitting --data stories.jsonl --dry_run`

Claim of Vicentino 2026 (arXiv 2603.22075): AR overfits early, and MDLM still improves at the end.
"""

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.keys import data_hash
from arche_mdlm.studies.engine.small.plan import subset_job, training_job
from arche_mdlm.studies.overfitting.settings import ARMS, OverfittingSettings

_JOBS = "arche_mdlm.studies.overfitting.jobs"


def build_plan(settings: OverfittingSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates; a seed's before those of the next one. ValueError for settings of no model."""
    jobs, trainings = [], {}
    for seed in settings.seeds:
        subset = subset_job(settings, settings.unique_tokens, seed)
        jobs.append(subset)
        for arm in ARMS:
            job = training_job(settings, subset, arm, arm, device)
            trainings[job.name] = {"arm": arm, "seed": seed, "subset": subset.name}
            jobs.append(job)
    needs = tuple(job.name for job in jobs)
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", {"trainings": trainings}, needs, 5.0, tolerant=True))
    preset = load_preset("mini-ar", {"data.source": settings.data})
    return Plan(tuple(jobs), data_hash(preset, settings.validation_data))
