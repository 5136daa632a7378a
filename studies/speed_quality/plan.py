"""Speed against quality: every sampler at several numbers of steps, beside AR with its KV cache, as jobs.

All that is timed comes first, in one stretch, so that the judge's memory does not weigh on it. A row's texts are written,
and timed, in batches of the largest size: what a text is does not depend on its batch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

import arche_mdlm
from arche_mdlm.metrics.judge import identify_judge, probe_judge
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import seconds_of
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.pair import Arm, check_pair
from arche_mdlm.studies.engine.references import draw, fingerprint, fitting_stories
from arche_mdlm.studies.engine.settings import check_least, check_temperature
from arche_mdlm.training.models.loading import context_length

# More than one row of a sampler: label and settings. A sampler that is not here appears once, with its defaults.
VARIANTS: dict[str, dict[str, dict]] = {
    "threshold": {"threshold 0.9": {}, "threshold factor 1": {"threshold_factor": 1.0}},
    "remdm": {f"remdm {name}": {"remasking": name} for name in ("cap", "rescale", "conf", "loop")},
}
AR = "AR, KV cache"
_JOBS = "arche_mdlm.studies.speed_quality.jobs"
_JUDGED_SECONDS = 0.5  # a text, on a CPU


@dataclass(frozen=True)
class Settings:
    """The settings of `arche-mdlm study speed-quality`."""

    mdlm: str
    ar: str
    samplers: tuple[str, ...] = ()  # empty: all there are
    steps: tuple[int, ...] = (8, 16, 32, 64, 128)
    batch_sizes: tuple[int, ...] = (1, 32)
    num_samples: int = 64  # stories a (sampler, steps), for quality
    num_timed: int = 4  # stories timed at least, a job
    repeats: int = 3  # calls timed at least, a job, unless one takes long
    judge: str = "smollm2"  # or "none", a folder, a repository
    references: str | None = None
    seed: int = 0
    temperature: float = 1.0
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_sizes"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} must be different numbers of at least 1")
        check_least(self, {"num_samples": 2, "num_timed": 1, "repeats": 1, "threads": 1})
        check_temperature(self)
        if unknown := sorted(set(self.samplers) - set(arche_mdlm.available_samplers())):
            raise ValueError(f"samplers={unknown} are not among {', '.join(arche_mdlm.available_samplers())}")

    @property
    def largest_batch(self) -> int:
        return max(self.batch_sizes)


@dataclass(frozen=True)
class Row:
    """A row of the table: a sampler with its options at a number of steps (None: AR)."""

    label: str
    steps: int | None
    options: dict  # of `generate`

    def job(self, kind: str) -> str:
        """Name of the row's job of a kind, such as "texts-threshold-0.9-16"."""
        label = re.sub(r"[^A-Za-z0-9._]+", "-", self.label)
        return f"{kind}-{label}" + (f"-{self.steps}" if self.steps else "")


def rows(settings: Settings) -> Iterator[Row]:
    """AR first."""
    common = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    yield Row(AR, None, common | {"use_cache": True})
    for name in settings.samplers or arche_mdlm.available_samplers():
        for label, options in VARIANTS.get(name, {name: {}}).items():
            for steps in settings.steps:
                yield Row(label, steps, common | {"sampler": name, "num_diffusion_steps": steps, **options})


def build_plan(settings: Settings) -> Plan:
    """ValueError for a pair, a judge or references that do not load, before anything is measured."""
    arms = check_pair(settings.mdlm, settings.ar, settings.device)
    judge = None if settings.judge == "none" else {"name": settings.judge, "id": identify_judge(settings.judge)}
    if judge is not None:
        probe_judge(settings.judge)
    table = list(rows(settings))
    jobs = [job for row in table for job in _speed_jobs(settings, arms, row)]
    jobs += [_texts_job(settings, arms, row) for row in table]
    common = {"arm": arms["MDLM"].to_dict(), "judge": judge, "seed": settings.seed, "threads": settings.threads}
    seconds = settings.num_samples * (_JUDGED_SECONDS if judge else 0.02)
    jobs += [Job(row.job("judged"), "judged", f"{_JOBS}:judged", common, (row.job("texts"),), seconds) for row in table]
    jobs += _reference_job(settings, arms["MDLM"], common, seconds)
    described = [{"label": row.label, "steps": row.steps, "texts": row.job("texts"), "judged": row.job("judged"),
                  "speeds": {str(size): _timed_by(settings, row, size) for size in settings.batch_sizes}}
                 for row in table]  # fmt: skip
    own = {"rows": described, "checkpoints": {name: arm.checkpoint for name, arm in arms.items()},
           "device": settings.device, "threads": settings.threads}  # fmt: skip
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", own, tuple(job.name for job in jobs), 1.0))
    return Plan(tuple(jobs))


def _timed_by(settings: Settings, row: Row, size: int) -> str:
    return row.job("texts") if size == settings.largest_batch else f"{row.job('speed')}-batch-{size}"


def _generating(settings: Settings, arms: dict[str, Arm], row: Row) -> tuple[dict, float]:
    """What a job that generates depends on, and about how many seconds a story takes it."""
    arm = arms["AR" if row.steps is None else "MDLM"]
    model, _ = arm.load()
    own = {"arm": arm.to_dict(), "options": row.options, "seed": settings.seed, "threads": settings.threads}
    return own, seconds_of(model, settings.device, (row.steps or 2) * context_length(model))


def _speed_jobs(settings: Settings, arms: dict[str, Arm], row: Row) -> Iterator[Job]:
    """Of all batch sizes but the largest, at which the texts are written."""
    own, seconds = _generating(settings, arms, row)
    for size in settings.batch_sizes:
        if size != settings.largest_batch:
            calls = max(settings.repeats, -(-settings.num_timed // size))
            yield Job(_timed_by(settings, row, size), "speed", f"{_JOBS}:speed", own | {"batch_size": size, "calls": calls},
                      seconds=seconds * size * calls)  # fmt: skip


def _texts_job(settings: Settings, arms: dict[str, Arm], row: Row) -> Job:
    own, seconds = _generating(settings, arms, row)
    own |= {"num_samples": settings.num_samples, "repeats": settings.repeats, "batch_size": settings.largest_batch}
    return Job(row.job("texts"), "texts", f"{_JOBS}:texts", own, seconds=seconds * settings.num_samples)


def _reference_job(settings: Settings, arm: Arm, common: dict, seconds: float) -> list[Job]:
    if settings.references is None:
        return []
    model, tokenizer = arm.load()
    texts = draw(
        fitting_stories(settings.references, tokenizer, context_length(model)), settings.num_samples, settings.seed
    )
    own = common | {"source": settings.references, "sha256": fingerprint(texts), "number": settings.num_samples}
    return [Job("reference", "judged", f"{_JOBS}:reference", own, seconds=seconds)]
