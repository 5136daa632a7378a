"""Speed against quality: every sampler at several numbers of steps, beside AR with its KV cache, as jobs."""

from collections.abc import Iterator
from dataclasses import dataclass

import arche_mdlm
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.pair import Arm, check_pair
from arche_mdlm.studies.engine.rows import Row, RowSettings, described, find_judge, judging_jobs, timed_jobs

# More than one row of a sampler: label and settings. A sampler that is not here appears once, with its defaults.
VARIANTS: dict[str, dict[str, dict]] = {
    "threshold": {"threshold 0.9": {}, "threshold factor 1": {"threshold_factor": 1.0}},
    "remdm": {f"remdm {name}": {"remasking": name} for name in ("cap", "rescale", "conf", "loop")},
}
AR = "AR, KV cache"
_JOBS = "arche_mdlm.studies.speed_quality.jobs"


@dataclass(frozen=True, kw_only=True)
class Settings(RowSettings):
    """The settings of `arche-mdlm study speed-quality`."""

    mdlm: str
    ar: str
    samplers: tuple[str, ...] = ()  # empty: all there are

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(set(self.samplers) - set(arche_mdlm.available_samplers())):
            raise ValueError(f"samplers={unknown} are not among {', '.join(arche_mdlm.available_samplers())}")


def rows(settings: Settings, arms: dict[str, Arm]) -> Iterator[Row]:
    """AR first."""
    yield Row(AR, None, settings.sampling | {"use_cache": True}, arms["AR"])
    for name in settings.samplers or arche_mdlm.available_samplers():
        for label, options in VARIANTS.get(name, {name: {}}).items():
            for steps in settings.steps:
                own = settings.sampling | {"sampler": name, "num_diffusion_steps": steps, **options}
                yield Row(label, steps, own, arms["MDLM"])


def build_plan(settings: Settings) -> Plan:
    """ValueError for a pair, a judge or references that do not load, before anything is measured."""
    arms = check_pair(settings.mdlm, settings.ar, settings.device)
    judge = find_judge(settings.judge)
    table = list(rows(settings, arms))
    jobs = timed_jobs(settings, table) + judging_jobs(settings, table, arms["MDLM"], judge)
    own = {"rows": described(settings, table), "checkpoints": {name: arm.checkpoint for name, arm in arms.items()},
           "device": settings.device, "threads": settings.threads}  # fmt: skip
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", own, tuple(job.name for job in jobs), 1.0))
    return Plan(tuple(jobs))
