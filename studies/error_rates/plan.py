"""Error rates by steps and length as jobs: languages, models trained on them, and texts of every sampler.

`arche-mdlm study error-rates --dry_run`

Claims of Feng et al. 2025, arXiv 2502.09622, for masked diffusion: a low token error takes a number of steps that does not
grow with the length L; a low sequence error takes one that grows with L.
"""

import json
from collections.abc import Iterator

import arche_mdlm
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import parameters, training_seconds
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.error_rates.settings import LEFT_OUT, ErrorRatesSettings, step_grid
from arche_mdlm.training.arguments import parse_changes

_JOBS = "arche_mdlm.studies.error_rates.jobs"
SUMMARISE = (
    "arche_mdlm.studies.error_rates.summary:summarise"  # apart: figures are put together anew without computing them
)
_ORACLE_RATE = 1.5e8  # canvas positions times hidden states a second, of the exact posterior on one core
_MODEL_RATE = 2e10  # operations a second of a small model that writes


def build_plan(settings: ErrorRatesSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates. ValueError for samplers that do not exist, or for settings of no model."""
    for name in ("samplers", "trained_samplers"):
        if unknown := sorted(set(getattr(settings, name)) - set(arche_mdlm.available_samplers())):
            raise ValueError(f"{name}={unknown} are not among {', '.join(arche_mdlm.available_samplers())}")
    references: dict[str, Job] = {}
    oracles: dict[str, Job] = {}
    trainings: dict[str, Job] = {}
    texts: dict[str, Job] = {}
    for length in sorted(settings.lengths):  # what takes longest comes last
        for kind in settings.languages:
            references |= {job.name: job for job in _reference(settings, kind, length)}
            oracles |= {job.name: job for job in _oracle(settings, kind, length)}
        for kind in settings.trained_languages:
            for seed in settings.seeds:
                train = _training(settings, kind, length, seed, device)
                trainings[train.name] = train
                texts |= {job.name: job for job in _texts(settings, kind, length, seed, train)}
    found = [*references.values(), *oracles.values(), *trainings.values(), *texts.values()]
    jobs = sorted(found, key=lambda job: (job.settings["length"], job.seconds if job.name in oracles else 0.0))
    about = {"references": _about(references), "trainings": _about(trainings), "texts": _about(oracles | texts)}
    needs = tuple(job.name for job in jobs)
    jobs.append(Job(SUMMARY, "summarise", SUMMARISE, about, needs, 30.0, tolerant=True))
    return Plan(tuple(jobs))


def samplers(settings: ErrorRatesSettings) -> list[str]:
    """Of the oracle."""
    return list(settings.samplers) or [name for name in arche_mdlm.available_samplers() if name not in LEFT_OUT]


def describe_language(settings: ErrorRatesSettings, kind: str, length: int) -> dict:
    """A language as the settings of a job have it."""
    own = {"kind": kind, "length": length, "seed": settings.language_seed}
    if kind == "ngram":
        return own | {"order": settings.order, "vocab_size": settings.ngram_vocab_size}
    return own | {"states": settings.hmm_states, "vocab_size": settings.hmm_vocab_size}


def forwards_of(grid: list[int], length: int) -> int:
    """Of a text; steps that fill nothing are not run."""
    return sum(min(steps, length) for steps in grid)


def _about(jobs: dict[str, Job]) -> dict[str, dict]:
    names = ("language", "denoiser", "sampler", "length", "seed")
    about = {name: {key: job.settings[key] for key in names if key in job.settings} for name, job in jobs.items()}
    return {name: own | {"language": jobs[name].settings["language"]["kind"]} for name, own in about.items()}


def _reference(settings: ErrorRatesSettings, kind: str, length: int) -> Iterator[Job]:
    own = {"language": describe_language(settings, kind, length), "length": length, "smoothing": settings.smoothing}
    yield Job(f"reference-{kind}-{length}", "reference", f"{_JOBS}:reference", own, (), 5.0)


def _writing(settings: ErrorRatesSettings, kind: str, length: int, sampler: str) -> dict:
    return {"language": describe_language(settings, kind, length), "length": length, "steps": step_grid(length, sampler),
            "smoothing": settings.smoothing}  # fmt: skip


def _oracle(settings: ErrorRatesSettings, kind: str, length: int) -> Iterator[Job]:
    states = settings.ngram_vocab_size**settings.order if kind == "ngram" else settings.hmm_states
    for sampler in samplers(settings):
        own = _writing(settings, kind, length, sampler) | {"denoiser": "oracle", "sampler": sampler, "seed": None}
        own |= {"num_samples": settings.num_samples, "batch_size": settings.oracle_batch_size}
        seconds = forwards_of(own["steps"], length) * settings.num_samples * length * (states + 30) / _ORACLE_RATE
        yield Job(f"texts-oracle-{kind}-{length}-{sampler}", "oracle texts", f"{_JOBS}:texts", own, (), seconds)


def _training(settings: ErrorRatesSettings, kind: str, length: int, seed: int, device: str) -> Job:
    language = describe_language(settings, kind, length)
    rows = max(1, settings.batch_positions // length)
    steps = max(1, settings.positions // (rows * length))
    shape = {"vocab_size": language["vocab_size"] + 3, "output_vocab_size": language["vocab_size"], "hidden_size": 64,
             "intermediate_size": 216, "num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": False,
             "max_position_embeddings": length + 1}  # fmt: skip
    course = {"max_steps": steps, "batch_size": rows, "seed": seed, "short_canvas_share": 0.0, "optimizer": "muon",
              "schedule": "warmup_stable_decay", "min_lr_ratio": 0.0, "clip_norm": 4.0, "log_every": 50,
              "warmup_steps": min(50, steps), "eval_every": steps, "save_every": max(1, steps // 4)}  # fmt: skip
    own_changes = [f"model.config.{key}={json.dumps(value)}" for key, value in shape.items()]
    own_changes += [f"data.context_length={length + 1}"]
    own_changes += [f"training.{key}={json.dumps(value)}" for key, value in course.items()]
    changes = [*own_changes, *settings.changes]
    preset = load_preset("mini-mdlm", parse_changes(changes))
    own = {"language": language, "denoiser": "trained", "length": length, "seed": seed, "changes": changes,
           "resolved": preset.to_dict()}  # fmt: skip  # the presets' files may change
    seconds = training_seconds(preset, device)
    return Job(f"train-{kind}-{length}-s{seed}", "small training", f"{_JOBS}:train", own, (), seconds)


def _texts(settings: ErrorRatesSettings, kind: str, length: int, seed: int, train: Job) -> Iterator[Job]:
    preset = load_preset("mini-mdlm", parse_changes(train.settings["changes"]))
    for sampler in settings.trained_samplers:
        own = _writing(settings, kind, length, sampler) | {"denoiser": "trained", "sampler": sampler, "seed": seed}
        own |= {"num_samples": settings.trained_samples, "batch_size": settings.batch_size}
        tokens = forwards_of(own["steps"], length) * settings.trained_samples * length
        seconds = 5 + 2 * parameters(preset) * tokens / _MODEL_RATE
        name = f"texts-trained-{kind}-{length}-{sampler}-s{seed}"
        yield Job(name, "texts", f"{_JOBS}:texts", own, (train.name,), seconds)
