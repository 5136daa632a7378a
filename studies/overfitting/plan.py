"""Overfitting as jobs: a fresh random subset of the stories a seed, both arms trained on it, evaluated on a grid of steps.

`arche-mdlm study overfitting --data stories.jsonl --dry_run`

Claim of Vicentino 2026 (arXiv 2603.22075): AR overfits early, and MDLM still improves at the end.
"""

from arche_mdlm.studies.engine.jobs import Plan
from arche_mdlm.studies.engine.small.plan import OneSizeSettings, subset_job, training_job, whole_plan
from arche_mdlm.studies.overfitting.jobs import ARMS


def build_plan(settings: OneSizeSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates; a seed's before those of the next one. ValueError for settings of no model."""
    jobs, trainings = [], {}
    for seed in settings.seeds:
        subset = subset_job(settings, settings.unique_tokens, seed)
        jobs.append(subset)
        for arm in ARMS:
            job = training_job(settings, subset, arm, arm, device)
            trainings[job.name] = {"arm": arm, "seed": seed, "subset": subset.name}
            jobs.append(job)
    return whole_plan(settings, jobs, trainings, "arche_mdlm.studies.overfitting.jobs:summarise")
