"""The controlled comparison: the paper's question without its confounds (docs/formulas.md), as jobs.

`arche-mdlm study controlled --preset mini --data train.jsonl --validation_data held_out.jsonl --dry_run`

Equal parameters, asserted. One story a row. The same prompts for both arms: none, which is a BOS in both, or the first
8 tokens of held-out stories. Temperature 1.0 and a sweep; no truncation, no penalty; the training length, ended by EOS.
Several seeds of training. Two AR columns: as many tokens seen as MDLM, and as many supervised. Best and last checkpoint.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from arche_mdlm.configuration.model_config import make_config
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.studies.controlled.matched import (
    MATCHED_COLUMNS,
    likelihood_job,
    matched_preset,
    writes_left_to_right,
)
from arche_mdlm.studies.controlled.settings import ControlledSettings
from arche_mdlm.studies.controlled.summary import BASE
from arche_mdlm.studies.controlled.texts import judge_installed, mauve_installed
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import forward_seconds, training_seconds
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.keys import data_hash
from arche_mdlm.studies.engine.trainings import TRAIN
from arche_mdlm.training.models.arms import ARMS

AR_COLUMNS = ("ar-seen", "ar-supervised")
CHECKPOINTS = ("best", "last")
_JOBS = "arche_mdlm.studies.controlled.jobs"


def build_plan(settings: ControlledSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates for `device` ("cpu" or "cuda"). ValueError for settings that are already known to be wrong."""
    presets = {"mdlm": settings.arm("mdlm"), "ar": settings.arm("ar")}
    jobs = [_check_job(settings, presets)]
    jobs.append(_reference_job(settings, presets["mdlm"]))
    few = data_settings(settings, presets["mdlm"]) | {"exact_stories": settings.exact_stories}
    jobs.append(Job("bigram", "bigram", f"{_JOBS}:bigram", few, ("check",), 20.0))
    for seed in settings.seeds:
        jobs.append(_supervision_job(settings, seed))
        for column in columns(settings):
            jobs += _run_jobs(settings, column, seed, device)
    needs = tuple(job.name for job in jobs if job.kind != "sample")
    corpus = data_settings(settings, presets["mdlm"])
    kept = {
        "corpus": corpus,
        "number": settings.num_samples,
        "columns": columns(settings),
        "first": first_mdlm(settings),
        "seeds": settings.seeds,
        "scale": settings.scale or settings.preset,
    }
    found = {
        job.name: job.settings
        for job in jobs
        if job.kind in ("train", "likelihood", "exact", "first token", "metrics", "paired")
    }
    about = {name: {k: v for k, v in own.items() if k in _ABOUT} for name, own in found.items()}
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", kept | {"about": about}, needs, 5.0, tolerant=True))
    return Plan(tuple(jobs), data_hash(presets["mdlm"], settings.validation_data))


_ABOUT = ("column", "seed", "checkpoint", "prompt", "temperature", "base")  # by what the summary finds a job's figures


def columns(settings: ControlledSettings) -> list[str]:
    """The columns of the comparison: MDLM by objective, AR by the quantity it shares with MDLM."""
    matched: tuple[str, ...] = MATCHED_COLUMNS if settings.matched else ()
    if not writes_left_to_right(settings.arm("mdlm")):
        matched = matched[:1]
    return [*(f"mdlm-{objective}" for objective in settings.objectives), *AR_COLUMNS, *matched]


def first_mdlm(settings: ControlledSettings) -> str:
    """The column whose likelihood the matched ones have."""
    return f"mdlm-{settings.objectives[0]}"


def data_settings(settings: ControlledSettings, preset: Preset) -> dict:
    """The settings to prepare the corpus as the training did."""
    return {"preset": preset.to_dict(), "validation_data": settings.validation_data}


def _check_job(settings: ControlledSettings, presets: dict[str, Preset]) -> Job:
    arms = {name: preset.to_dict() for name, preset in presets.items()}
    return Job(
        "check", "check", f"{_JOBS}:check", {"arms": arms, "validation_data": settings.validation_data}, (), 30.0
    )


def _supervision_job(settings: ControlledSettings, seed: int) -> Job:
    """Depends on the seed alone: all objectives are trained on the same masks."""
    own = data_settings(settings, settings.arm("mdlm", settings.objectives[0], seed))
    seconds = 10 + own["preset"]["training"]["max_steps"] * 4e-3
    return Job(f"supervision-s{seed}", "supervision", f"{_JOBS}:supervision", own, ("check",), seconds)


def _reference_job(settings: ControlledSettings, preset: Preset) -> Job:
    own = data_settings(settings, preset) | _measuring(settings)
    return Job("references", "references", f"{_JOBS}:references", own, ("check",), 30.0)


def _run_jobs(settings: ControlledSettings, column: str, seed: int, device: str) -> Iterator[Job]:
    """Training of a column's arm with a seed, and its measurements."""
    arm, _, rest = column.partition("-")
    preset = settings.arm(arm, rest if arm == "mdlm" else None, seed)
    about = {"column": column, "seed": seed}
    run, matched = f"{column}-s{seed}", column == "ar-supervised"
    train = f"train-{run}"
    needs = ("check", f"supervision-s{seed}") if matched else ("check",)
    stopped = column in MATCHED_COLUMNS
    if stopped:
        preset = matched_preset(preset, column, settings.exact_stories)
        needs = ("check", likelihood_job(column, first_mdlm(settings), seed))
    own = about | {"preset": f"{settings.preset}-{arm}", "data": settings.data}
    own |= {"validation_data": settings.validation_data, "changes": _changes(settings, preset, stopped), "matched": matched,
            "stopped": stopped, "resolved": preset.to_dict()}  # fmt: skip  # the presets' files may change
    steps = preset.training.max_steps * (0.5 if matched else 1)
    config = make_config(preset.model.architecture, preset.model.config)
    yield Job(train, "train", TRAIN, own, needs, training_seconds(preset, device, steps), fresh=True)
    for checkpoint in CHECKPOINTS:
        chosen = about | {"checkpoint": checkpoint} | data_settings(settings, preset)
        draws = ARMS[arm].forwards_of_score(settings.likelihood_samples, config)
        likelihood_needs = (train, *_same(f"likelihood-{run}", checkpoint))
        yield Job(
            f"likelihood-{run}-{checkpoint}", "likelihood", f"{_JOBS}:likelihood",
            chosen | {"num_samples": settings.likelihood_samples}, likelihood_needs, forward_seconds(preset, device, 1200 * draws),
        )  # fmt: skip
    best = about | {"checkpoint": "best"} | data_settings(settings, preset)
    if arm == "mdlm" and writes_left_to_right(preset):
        few = best | {"exact_stories": settings.exact_stories}
        forwards = settings.exact_stories * preset.data.context_length / 2
        yield Job(
            f"exact-{run}", "exact", f"{_JOBS}:exact", few, (train,), forward_seconds(preset, device, round(forwards))
        )
    yield Job(f"first-token-{run}", "first token", f"{_JOBS}:first_token", best, (train,), 5.0)
    for checkpoint, prompt, temperature in sampled(settings):
        yield from _sample_jobs(
            settings, preset, about | {"checkpoint": checkpoint}, prompt, temperature, train, device
        )
    bases = [BASE] if column != BASE else []
    if settings.matched and column == first_mdlm(settings):
        bases += [base for base in MATCHED_COLUMNS if base in columns(settings)]
    for base in bases:
        names = [f"s{seed}-{sample_key_name(*key)}" for key in sampled(settings) if key[2] == 1.0]
        pairs = tuple(f"sample-{own}-{name}" for name in names for own in (column, base))
        name = f"paired-{run}" if base == BASE else f"paired-{run}-{base}"
        yield Job(name, "paired", f"{_JOBS}:paired", about | {"base": base}, pairs, 5.0 * len(names))


def _same(job: str, checkpoint: str, rest: str = "") -> tuple[str, ...]:
    """The best checkpoint's job, for that of the last one: they have one result where the two checkpoints are one."""
    return (f"{job}-best{rest}",) if checkpoint == "last" else ()


def sample_key_name(checkpoint: str, prompt: str, temperature: float) -> str:
    """Of a set of samples, in the names of its jobs."""
    return f"{checkpoint}-{prompt}-t{temperature}"


def sampled(settings: ControlledSettings) -> Iterator[tuple[str, str, float]]:
    """Checkpoint, prompt and temperature: all of both at temperature 1.0, the sweep from BOS with the best one."""
    for checkpoint in CHECKPOINTS:
        for prompt in settings.prompts:
            yield checkpoint, prompt, 1.0
    for temperature in settings.temperatures:
        if temperature != 1.0:
            yield "best", settings.prompts[0], temperature


def _sample_jobs(
    settings: ControlledSettings,
    preset: Preset,
    about: dict[str, Any],
    prompt: str,
    temperature: float,
    train: str,
    device: str,
) -> Iterator[Job]:
    about = about | {"prompt": prompt, "temperature": temperature}
    run, checkpoint = f"{about['column']}-s{about['seed']}", about["checkpoint"]
    name, rest = f"{run}-{sample_key_name(checkpoint, prompt, temperature)}", f"-{prompt}-t{temperature}"
    kept: tuple[str, ...] = ("num_samples", "num_diffusion_steps", "batch_size")
    if not about["column"].startswith("mdlm"):  # AR's samples do not depend on MDLM's steps
        kept = ("num_samples", "batch_size")
    own = about | data_settings(settings, preset) | {key: getattr(settings, key) for key in kept}
    forwards = settings.num_samples * own.get("num_diffusion_steps", 2)
    needs = (train, *_same(f"sample-{run}", checkpoint, rest))
    yield Job(f"sample-{name}", "sample", f"{_JOBS}:sample", own, needs, forward_seconds(preset, device, forwards))
    measured = about | data_settings(settings, preset) | _measuring(settings)
    judged = 0.0
    if settings.judge != "none":
        judged = min(settings.num_samples, settings.judge_samples or math.inf) * (0.5 if device == "cpu" else 0.02)
    needs = (f"sample-{name}", train, *_same(f"metrics-{run}", checkpoint, rest))
    yield Job(
        f"metrics-{name}", "metrics", f"{_JOBS}:metrics", measured, needs, 15 + settings.num_samples / 50 + judged
    )


def _measuring(settings: ControlledSettings) -> dict:
    """The settings that the figures of a set of texts depend on."""
    own = {key: getattr(settings, key) for key in ("num_samples", "cut_tokens", "judge", "judge_samples")}
    if not judge_installed(settings.judge):
        own["judge_missing"] = True  # measured again once it is there
    return own | {"mauve": mauve_installed()}


def _changes(settings: ControlledSettings, preset: Preset, stopped: bool) -> list[str]:
    """`--set` of the training that gives `preset`, its source aside."""
    own = {"training.max_steps": preset.training.max_steps, "training.seed": preset.training.seed,
           "training.objective": preset.training.objective}  # fmt: skip
    if stopped:
        own |= {"training.eval_every": preset.training.eval_every, "training.eval_rows": preset.training.eval_rows}
    return [*settings.changes, *(f"{key}={json.dumps(value)}" for key, value in own.items())]
