"""The paper's protocol (Vicentino 2026, arXiv 2603.22075) with its own metrics, and what each of its confounds does.

`arche-mdlm study arche --preset arche-paper --data roneneldan/TinyStories` trains both arms as the paper did, prints our
row beside the paper's, and a table of 2 x 2 x 2 factors for each arm:

    both arms   windows cut without regard to stories, against a story a row (each its own training)
    both arms   128 tokens, against the training length
    AR          "Once" forced as the first token, against a free start
    MDLM        repetition penalty of the released sampler, against none

A free start is a BOS with rows. Windows know no BOS, so there it is the first token of a random training window, which is
where such a model begins. Everything else is the paper's: temperature 0.8, MDLM in 100 steps of the sampler `arche`.
"""

import itertools
import json
from collections.abc import Iterator

from arche_mdlm.configuration.model_config import make_config
from arche_mdlm.studies.arche.factors import LAYOUTS, LENGTHS, VARIANTS
from arche_mdlm.studies.arche.settings import ArcheSettings
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import forward_seconds, training_seconds
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.keys import data_hash
from arche_mdlm.studies.engine.trainings import TRAIN
from arche_mdlm.training.models.arms import ARMS

LIKELIHOOD_DRAWS = 4  # of MDLM's bound, a row
_JOBS = "arche_mdlm.studies.arche.jobs"


def build_plan(settings: ArcheSettings, device: str = "cpu") -> Plan:
    """A bigram a layout; by seed four trainings, and eight sets of samples an arm."""
    jobs = [_bigram_job(settings, layout) for layout in LAYOUTS]
    for seed, arm, layout in itertools.product(settings.all_seeds, VARIANTS, LAYOUTS):
        jobs += _training_jobs(settings, arm, layout, seed, device)
    cells = {job.name: {key: job.settings[key] for key in ("arm", "layout", "length", "variant", "seed")}
             for job in jobs if job.kind == "metrics"}  # fmt: skip
    needs = tuple(job.name for job in jobs if job.kind != "sample")
    own = {"cells": cells, "seeds": settings.all_seeds}
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", own, needs, 5.0, tolerant=True))
    first = settings.arm("ar", "windows", settings.all_seeds[0])
    return Plan(tuple(jobs), data_hash(first, settings.validation_data))


def _bigram_job(settings: ArcheSettings, layout: str) -> Job:
    preset = settings.arm("ar", layout, settings.all_seeds[0])  # the data of both arms and all seeds
    own = {"preset": {"data": preset.to_dict()["data"]}, "validation_data": settings.validation_data,
           "likelihood_rows": settings.likelihood_rows}  # fmt: skip
    return Job(f"bigram-{layout}", "bigram", f"{_JOBS}:bigram", own, (), 20.0)


def _training_jobs(settings: ArcheSettings, arm: str, layout: str, seed: int, device: str) -> Iterator[Job]:
    preset, train = settings.arm(arm, layout, seed), f"train-{arm}-{layout}-s{seed}"
    changes = {key: value for key, value in settings.changed(layout, seed).items() if value is not None}
    own = {"preset": f"{settings.preset}-{arm}", "data": settings.data, "validation_data": settings.validation_data,
           "changes": [f"{key}={json.dumps(value)}" for key, value in changes.items()], "matched": False,
           "resolved": preset.to_dict()}  # fmt: skip
    yield Job(
        train,
        "train",
        TRAIN,
        own,
        (),
        training_seconds(preset, device),
        fresh=True,
    )
    corpus = {"preset": preset.to_dict(), "validation_data": settings.validation_data, "arm": arm, "layout": layout}
    yield Job(
        f"validation-{arm}-{layout}-s{seed}", "validation", f"{_JOBS}:validation", corpus, (train,),
        forward_seconds(preset, device, 50 * preset.training.batch_size),
    )  # fmt: skip
    forwards = settings.likelihood_rows * ARMS[arm].forwards_of_score(
        LIKELIHOOD_DRAWS, make_config(preset.model.architecture, preset.model.config)
    )
    yield Job(
        f"likelihood-{arm}-{layout}-s{seed}", "likelihood", f"{_JOBS}:likelihood",
        corpus | {"likelihood_rows": settings.likelihood_rows, "num_samples": LIKELIHOOD_DRAWS}, (train,),
        forward_seconds(preset, device, forwards),
    )  # fmt: skip
    for length, variant in itertools.product(LENGTHS, VARIANTS[arm]):
        cell = f"{arm}-{layout}-{length}-{variant}-s{seed}"
        tokens = settings.short_length if length == "short" else preset.data.context_length
        kept = {key: getattr(settings, key) for key in ("num_samples", "temperature", "batch_size")}
        kept |= {"seed": seed}
        kept |= ARMS[arm].step_options(settings.num_diffusion_steps)
        sample = corpus | kept | {"length": length, "tokens": tokens, "variant": variant}
        forwards = settings.num_samples * ARMS[arm].forwards_of_text(settings.num_diffusion_steps)
        seconds = forward_seconds(preset, device, forwards) * tokens / preset.data.context_length
        yield Job(f"sample-{cell}", "sample", f"{_JOBS}:sample", sample, (train,), seconds)
        measured = {"arm": arm, "layout": layout, "length": length, "variant": variant, "seed": seed}
        yield Job(f"metrics-{cell}", "metrics", f"{_JOBS}:metrics", measured, (f"sample-{cell}",), 20.0)
