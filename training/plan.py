"""What a run will do: the request made whole, with all checks that are possible before data is read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id

from arche_mdlm.configuration.checks import check_fit, check_preset
from arche_mdlm.configuration.presets import load_preset, preset_from_dict
from arche_mdlm.configuration.settings import ModelSettings, Preset, TrainingSettings
from arche_mdlm.training.data.corpus import source_hashes
from arche_mdlm.training.data.formats import Format
from arche_mdlm.training.data.mixing import check_weights
from arche_mdlm.training.effects import about_the_loss, without_effect
from arche_mdlm.training.files.checkpointing import list_checkpoints, read_state, step_of
from arche_mdlm.training.files.output_folder import check_output_dir
from arche_mdlm.training.launcher import apply_launcher, asks_for_cpu
from arche_mdlm.training.loop.optimizers import decay_start
from arche_mdlm.training.loop.resuming import refuse_changes, setting_changes
from arche_mdlm.training.loop.trackers import check_trackers
from arche_mdlm.training.models.build import model_of_checkpoint
from arche_mdlm.training.request import DEFAULT_PRESET, TrainingRequest


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run resumes or branches from."""

    checkpoint: Path
    state: dict[str, Any]
    branch: bool

    @property
    def name(self) -> str:
        """For messages."""
        return f"{'--branch_from' if self.branch else '--resume'}: the run of {self.checkpoint}"


@dataclass(frozen=True)
class TrainingPlan:
    """A checked request: the preset with all changes, where to start, and notes for the user."""

    request: TrainingRequest
    preset: Preset
    output_dir: Path
    start: Start | None
    init_from: str | None  # what is fine-tuned; of a run that goes on, what it was fine-tuned from
    notes: tuple[str, ...]

    @property
    def weights(self) -> str | Path | None:
        """The checkpoint with the weights and the tokenizer to start from; None: a new model."""
        return self.request.init_from if self.start is None else self.start.checkpoint


def make_plan(request: TrainingRequest) -> TrainingPlan:
    """The plan of a run.

    Raises:
        ValueError: for anything wrong that can be known before data is read.
        CheckpointError: for a damaged checkpoint to go on from.
    """
    if request.push_to_hub:
        validate_repo_id(request.push_to_hub)
    check_trackers(request.report_to)
    request, preset = _preset(request)
    Format.of(preset.data)  # refuses columns for several formats
    if preset.data.weights:
        check_weights(preset.data.source, preset.data.weights)
    output_dir, changes = request.output_dir or Path("runs") / preset.name, request.changes
    check_output_dir(output_dir)
    preset, notes = apply_launcher(preset, changes)
    preset, of_the_machine = _precision_of_the_machine(preset, changes)
    notes += [*of_the_machine, *without_effect(preset, changes, request.init_from is not None)]
    notes += about_the_loss(preset)
    if request.init_from and "data.tokenizer" in changes:
        raise ValueError("data.tokenizer cannot be set with --init_from: the checkpoint has a tokenizer")
    start = _start(request, output_dir, preset.training)
    if start is None and request.resume:
        notes.append(f"note: no checkpoint in {output_dir} yet: the run starts afresh")
    init_from = request.init_from
    if init_from is None and start is not None:
        init_from = start.state.get("run", {}).get("init_from")
    if preset.training.distillation_steps is not None and init_from is None:
        raise ValueError(
            f"training.distillation_steps={preset.training.distillation_steps} needs --init_from with a trained model, the first "
            "teacher"
        )
    preset = _with_model(preset, request, start, init_from)
    if preset.model.config.get("attn_implementation") == "flex_attention" and not on_gpu():
        raise ValueError(
            "model.config.attn_implementation='flex_attention' needs a GPU for training; give sdpa or eager"
        )
    if start is not None:
        notes += _changes_since(start, preset, request)
    return TrainingPlan(request, preset, output_dir, start, init_from, tuple(notes))


def with_steps(plan: TrainingPlan, num_rows: int) -> TrainingPlan:
    """The plan with the number of steps that its epochs are, of a training split of `num_rows` rows.

    An epoch is a pass over all rows that fill a batch. ValueError for settings that do not go with so many steps.
    """
    training = plan.preset.training
    if training.epochs is None:
        return plan
    steps = max(1, round(training.epochs * (num_rows // training.batch_size)))
    check_preset(replace(plan.preset, training=replace(training, max_steps=steps, epochs=None)))
    note = f"training.epochs={training.epochs:g}: {steps:,} steps of {training.batch_size} rows"
    preset = replace(plan.preset, training=replace(training, max_steps=steps))
    return replace(plan, preset=preset, notes=(note,))


def on_gpu() -> bool:
    """Whether the run will be on a GPU, known before the `Accelerator` exists."""
    return torch.cuda.is_available() and not asks_for_cpu()


def _preset(request: TrainingRequest) -> tuple[TrainingRequest, Preset]:
    """The preset with its changes; of a run that goes on without naming one, its own, and its validation data."""
    if request.resume and request.preset is None:
        newest = list_checkpoints(request.output_dir or Path("runs") / DEFAULT_PRESET)[-1:]
        if newest:
            stored = read_state(newest[0])
            if request.validation_data is None:
                request = replace(request, validation_data=stored.get("run", {}).get("validation_data"))
            return request, preset_from_dict(stored["preset"], dict(request.changes))
    return request, load_preset(request.preset or DEFAULT_PRESET, dict(request.changes))


def _precision_of_the_machine(preset: Preset, changes: Mapping[str, Any]) -> tuple[Preset, list[str]]:
    """Half precision of a preset is for GPUs; one that is asked for by the user is done, or refused."""
    precision = preset.training.mixed_precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == precision
    if precision == "no" or on_gpu():
        return preset, []
    if "training.mixed_precision" in changes or launched:
        if precision == "fp16":
            raise ValueError("mixed_precision='fp16' needs a GPU; give bf16 or no")
        return preset, []
    note = f"note: training.mixed_precision={precision!r} of the preset is for GPUs; training in float32 here"
    return replace(preset, training=replace(preset.training, mixed_precision="no")), [note]


def _start(request: TrainingRequest, output_dir: Path, settings: TrainingSettings) -> Start | None:
    checkpoints = list_checkpoints(output_dir)
    if request.resume and checkpoints:
        return Start(checkpoints[-1], read_state(checkpoints[-1]), False)
    if checkpoints and not request.overwrite:
        raise ValueError(
            f"--output_dir {output_dir} already holds a run (up to {checkpoints[-1].name}): give --resume to go on with "
            "it, --overwrite to delete it, or another folder"
        )
    if request.branch_from is None:
        return None
    branch = _branch_point(request.branch_from, settings)
    return Start(branch, read_state(branch), True)


def _branch_point(run: Path, settings: TrainingSettings) -> Path:
    """The checkpoint of another run, at its peak rate, from which the rate of this one begins to fall."""
    if settings.epochs is not None:
        raise ValueError(
            f"--branch_from needs a number of steps: give --max_steps in place of training.epochs={settings.epochs}"
        )
    if settings.schedule != "warmup_stable_decay":
        raise ValueError(
            "--branch_from needs training.schedule=warmup_stable_decay: the learning rate of the run must still be at its peak"
        )
    step = decay_start(settings.max_steps, settings.decay_share)
    found = {step_of(checkpoint): checkpoint for checkpoint in list_checkpoints(run)}
    if step not in found:
        raise ValueError(
            f"--branch_from {run} has no checkpoint of step {step}, where a run of training.max_steps={settings.max_steps} "
            f"branches off (there: {', '.join(map(str, found)) or 'none'}); name the length in training.branches of that run"
        )
    if read_state(found[step])["preset"]["training"]["max_steps"] < settings.max_steps:
        raise ValueError(f"--branch_from {run} is a shorter run than training.max_steps={settings.max_steps}")
    return found[step]


def _with_model(preset: Preset, request: TrainingRequest, start: Start | None, init_from: str | None) -> Preset:
    """The preset with the model that is trained: its own, that of `init_from`, or that of a fine-tuning which goes on."""
    if init_from is None:
        check_fit(preset)
        return preset
    if start is not None:
        return replace(preset, model=_model_of_record(start.state["preset"], request.changes))
    return replace(preset, model=model_of_checkpoint(init_from, preset, request.changes))


def _model_of_record(stored: dict[str, Any], changes: Mapping[str, Any]) -> ModelSettings:
    """The stored model of a run that was itself fine-tuned, with the changes that are asked for it."""
    return preset_from_dict(stored, {key: value for key, value in changes.items() if key.startswith("model.")}).model


def _changes_since(start: Start, preset: Preset, request: TrainingRequest) -> list[str]:
    """A note about settings that are not those of the run which goes on; ValueError where they are not allowed."""
    asked: dict[str, Any] = {"init_from": request.init_from, "validation_data": request.validation_data}
    if start.state.get("run"):
        asked["sources"] = source_hashes(preset.data, request.validation_data)
    changes = setting_changes(start.state, preset, asked, start.branch)
    note = refuse_changes(changes, start.name, request.allow_changes)
    return [note] if note else []
