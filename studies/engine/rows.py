"""The rows of a table of texts, each a model's by one sampler at one number of steps, as jobs that are timed, then judged.

All that is timed comes first, in one stretch, so that the judge's memory does not weigh on it. A row's texts are written,
and timed, in batches of the largest size: what a text is does not depend on its batch.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from arche_mdlm.metrics.judge import identify_judge, probe_judge
from arche_mdlm.studies.engine.estimates import seconds_of
from arche_mdlm.studies.engine.jobs import Job
from arche_mdlm.studies.engine.pair import Arm
from arche_mdlm.studies.engine.readings.references import draw, fingerprint, fitting_stories
from arche_mdlm.studies.engine.settings import check_least, check_temperature
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import context_length

_JOBS = "arche_mdlm.studies.engine.texts"


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """The settings of a study whose report is such a table."""

    steps: tuple[int, ...] = (8, 16, 32, 64, 128)
    batch_sizes: tuple[int, ...] = (1, 32)
    num_samples: int = 64  # stories a row, for quality
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

    @property
    def largest_batch(self) -> int:
        return max(self.batch_sizes)

    @property
    def sampling(self) -> dict:
        """Options of `generate` of every row: what the model has learnt, without truncation."""
        return {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class Row:
    """A row of the table: an arm's texts at a number of steps (None: it takes none)."""

    label: str
    steps: int | None
    options: dict  # of `generate`
    arm: Arm

    def job(self, kind: str) -> str:
        """Name of the row's job of a kind, such as "texts-threshold-0.9-16"."""
        return job_name(kind, self.label) + (f"-{self.steps}" if self.steps else "")


def job_name(kind: str, label: str) -> str:
    """Like "texts-threshold-0.9"."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._]+', '-', label)}"


def find_judge(name: str, cuts: bool = False) -> dict | None:
    """The judge as jobs have it, None for "none"; ValueError or ImportError for one that does not load."""
    if name == "none":
        return None
    probe_judge(name)
    return {"name": name, "id": identify_judge(name), "cuts": cuts}


def timed_jobs(settings: RowSettings, rows: Sequence[Row]) -> list[Job]:
    """Stories a second of each row at each batch size, and its texts."""
    jobs = [job for row in rows for job in _speed_jobs(settings, row)]
    return jobs + [_texts_job(settings, row) for row in rows]


def judging_jobs(
    settings: RowSettings, rows: Sequence[Row], arm: Arm, judge: dict | None, text_seconds: float = 0.5
) -> list[Job]:
    """Quality of each row's texts and, with `references`, of as many held-out stories; `arm` has the tokenizer.

    `text_seconds` is about what the judge takes for a text.

    ValueError for references that cannot be read, or are too few.
    """
    common = {"arm": arm.to_dict(), "judge": judge, "seed": settings.seed, "threads": settings.threads}
    seconds = settings.num_samples * (text_seconds if judge else 0.02)
    jobs = [Job(row.job("judged"), "judged", f"{_JOBS}:judged", common, (row.job("texts"),), seconds) for row in rows]
    if settings.references is None:
        return jobs
    model, tokenizer = arm.load()
    stories = fitting_stories(settings.references, tokenizer, context_length(model))
    found = draw(stories, settings.num_samples, settings.seed)
    own = common | {"source": settings.references, "sha256": fingerprint(found), "number": settings.num_samples}
    return [*jobs, Job("reference", "judged", f"{_JOBS}:reference", own, seconds=seconds)]


def described(settings: RowSettings, rows: Sequence[Row]) -> list[dict]:
    """The rows as the summary's settings have them: names of their jobs."""
    return [{"label": row.label, "steps": row.steps, "texts": row.job("texts"), "judged": row.job("judged"),
             "speeds": {str(size): _timed_by(settings, row, size) for size in settings.batch_sizes}}
            for row in rows]  # fmt: skip


def _timed_by(settings: RowSettings, row: Row, size: int) -> str:
    return row.job("texts") if size == settings.largest_batch else f"{row.job('speed')}-batch-{size}"


def _generating(settings: RowSettings, row: Row) -> tuple[dict, float]:
    """What a job that generates depends on, and about how many seconds a story takes it."""
    model, _ = row.arm.load()
    own = {"arm": row.arm.to_dict(), "options": row.options, "seed": settings.seed, "threads": settings.threads}
    forwards = arm_of(model).forwards_of_text(row.steps or 1)
    return own, seconds_of(model, settings.device, forwards * context_length(model))


def _speed_jobs(settings: RowSettings, row: Row) -> Iterator[Job]:
    """Of all batch sizes but the largest, at which the texts are written."""
    own, seconds = _generating(settings, row)
    for size in settings.batch_sizes:
        if size != settings.largest_batch:
            calls = max(settings.repeats, -(-settings.num_timed // size))
            yield Job(_timed_by(settings, row, size), "speed", f"{_JOBS}:speed", own | {"batch_size": size, "calls": calls},
                      seconds=seconds * size * calls)  # fmt: skip


def _texts_job(settings: RowSettings, row: Row) -> Job:
    own, seconds = _generating(settings, row)
    own |= {"num_samples": settings.num_samples, "repeats": settings.repeats, "batch_size": settings.largest_batch}
    return Job(row.job("texts"), "texts", f"{_JOBS}:texts", own, seconds=seconds * settings.num_samples)
