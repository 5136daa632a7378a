"""Several diffusion models and their autoregressive twin: speed, texts and likelihood on equal terms, as jobs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import seconds_of
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.pair import Arm, check_models
from arche_mdlm.studies.engine.readings.first_tokens import vocabulary_hash
from arche_mdlm.studies.engine.readings.references import committed_bigram, committed_figures
from arche_mdlm.studies.engine.rows import (
    Row,
    RowSettings,
    described,
    find_judge,
    job_name,
    judging_jobs,
    timed_jobs,
)
from arche_mdlm.studies.engine.settings import check_least
from arche_mdlm.training.data.corpus import SAMPLE_CORPUS
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.models.arms import ARMS, arm_of
from arche_mdlm.training.models.cost import cost_of
from arche_mdlm.training.models.loading import context_length

AR, TWIN = "AR", "twin"  # the twin's label in the report; its name as a judge
_ORDERS = 16  # of a model that writes in random ones
_JOBS = "arche_mdlm.studies.families.jobs"


@dataclass(frozen=True, kw_only=True)
class Settings(RowSettings):
    """The settings of `arche-mdlm compare --families`."""

    ar: str
    models: tuple[tuple[str, str], ...]  # (label, folder or repository)
    steps: tuple[int, ...] = (16, 64, 128)
    num_samples: int = 64
    num_timed: int = 3
    judge: str = TWIN
    data: str | None = None
    likelihood_stories: int = 100
    likelihood_samples: int = 4
    exact_stories: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"likelihood_stories": 2, "likelihood_samples": 2, "exact_stories": 2})
        names = [job_name("", label).lower() for label in self.labels]
        if not self.models or len(set(names)) < len(names):
            raise ValueError(
                f"models={list(self.labels[1:])} must be at least one label, none twice and none {AR}, which is the twin's"
            )

    @property
    def labels(self) -> list[str]:
        """Of all models, the twin's first. A shipped pair goes by the names that it has in other reports."""
        return [AR, *(ARMS[label].label if label in ARMS else label for label, _ in self.models)]

    @property
    def sources(self) -> dict[str, str]:
        return dict(zip(self.labels[1:], (source for _, source in self.models), strict=True))


def build_plan(settings: Settings) -> Plan:
    """ValueError for a model, a judge, references or data that do not load, before anything is measured."""
    arms = check_models(settings.ar, settings.sources, settings.device)
    twin = settings.judge == TWIN
    judge = find_judge(settings.ar if twin else settings.judge, cuts=twin)
    table = [row for label, arm in arms.items() for row in rows(settings, label, arm)]
    jobs = timed_jobs(settings, table)
    likelihoods = [job for label, arm in arms.items() for job in _likelihood_jobs(settings, label, arm)]
    jobs += likelihoods
    jobs += judging_jobs(settings, table, arms[AR], judge, 0.05 if twin else 0.5)
    named = {job.name for job in likelihoods}
    own = {
        "rows": described(settings, table),
        "models": {label: _described(label, arm, named) for label, arm in arms.items()},
        "judged_by_twin": twin,
        "corpus": Path(settings.data).name
        if settings.data
        else "the shipped sample corpus, which our own AR model has written",
        "reference": None if settings.references else committed_figures(settings.num_samples),
        "bigram": committed_bigram(vocabulary_hash(arms[AR].load()[1])) if settings.data else None,
        "seed": settings.seed,
        "device": settings.device,
        "threads": settings.threads,
    }
    needs = tuple(job.name for job in jobs)
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", own, needs, 3.0, tolerant=True))
    return Plan(tuple(jobs))


def rows(settings: Settings, label: str, arm: Arm) -> Iterator[Row]:
    """A model's rows: one for each number of steps, or one where it takes none. The sampler is the checkpoint's."""
    model, _ = arm.load()
    kind = arm_of(model)
    options = settings.sampling | kind.cache_options(model.config)
    for steps in settings.steps:
        own = kind.step_options(steps)
        yield Row(label, steps if own else None, options | own, arm)
        if not own:
            return


def _described(label: str, arm: Arm, named: set[str]) -> dict:
    """A model as the summary's settings have it, with the names of its jobs."""
    model, _ = arm.load()
    kind, jobs = arm_of(model), {key: job_name(key, label) for key in ("likelihood", "exact")}
    return {
        "family": kind.family(model.config),
        "is_bound": kind.is_bound,
        "checkpoint": arm.checkpoint,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cost": cost_of(arm.source),
        "jobs": {key: name for key, name in jobs.items() if name in named},
    }


def _likelihood_jobs(settings: Settings, label: str, arm: Arm) -> Iterator[Job]:
    """Likelihood of held-out stories, and the exact one of a few, where there is one beside a bound."""
    model, tokenizer = arm.load()
    kind, length = arm_of(model), context_length(model)
    own = corpus_of(settings, tokenizer, length) | {"arm": arm.to_dict(), "threads": settings.threads}
    draws = settings.likelihood_samples
    seconds = seconds_of(model, settings.device, own["stories"] * kind.forwards_of_score(draws, model.config) * length)
    scored = own | {"num_samples": draws, "seed": settings.seed}
    yield Job(job_name("likelihood", label), "likelihood", f"{_JOBS}:likelihood", scored, seconds=seconds)
    if kind.has_exact_policy(model.config):
        count = min(settings.exact_stories, own["stories"])
        seconds = seconds_of(model, settings.device, count * length * length / 2)
        few = own | {"stories": count, "num_orders": _ORDERS, "seed": settings.seed}
        yield Job(job_name("exact", label), "exact", f"{_JOBS}:exact", few, seconds=seconds)


def corpus_of(settings: Settings, tokenizer: Any, length: int) -> dict:
    """The held-out stories that all models are scored on, as jobs have them."""
    data = settings.data or str(SAMPLE_CORPUS)
    found = prepare_data(data, tokenizer, layout="rows", context_length=length, split="train")
    return {
        "data": data,
        "sha256": found.summary.sha256,
        "stories": min(settings.likelihood_stories, len(found.dataset)),
    }
