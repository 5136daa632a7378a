"""Train one arm: `accelerate launch training/train.py --preset mini-mdlm --data FILE_OR_HUB_ID`."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.utils import validate_repo_id
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.configuration.presets import ModelSettings, Preset, TrainingSettings, check_fit, preset_from_dict
from arche_mdlm.training.arguments import DEFAULT_PRESET, build_parser, changes_of, preset_from
from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.data.corpus import Corpus, load_corpus, source_hashes
from arche_mdlm.training.effects import without_effect
from arche_mdlm.training.files.checkpointing import (
    CheckpointError,
    list_checkpoints,
    read_state,
    remove_checkpoint,
    step_of,
    write_folder_atomically,
    write_json_atomically,
)
from arche_mdlm.training.files.output_folder import check_output_dir
from arche_mdlm.training.files.own_files import MANIFEST
from arche_mdlm.training.launcher import accelerator_arguments, apply_launcher, asks_for_cpu, is_main_process
from arche_mdlm.training.loop.evaluation import Evaluator
from arche_mdlm.training.loop.optimizers import decay_start
from arche_mdlm.training.loop.provenance import describe_run
from arche_mdlm.training.loop.resuming import data_changes, refuse_changes, setting_changes
from arche_mdlm.training.loop.sharding import sharding_plugin
from arche_mdlm.training.loop.trainer import Trainer, TrainingDiverged
from arche_mdlm.training.models.build import build_model, model_of_checkpoint
from arche_mdlm.training.models.loading import load_arm, save_arm, set_generation_defaults
from arche_mdlm.training.models.model_card import write_model_card


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status (0 complete, 130 stopped by a signal, 2 an error, printed in one line)."""
    args = build_parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        print(f"error: out of memory; raise --accumulation, or lower --batch_size ({error})", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError, CheckpointError, TrainingDiverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Train as the parsed command line says; the exit status, as `main` has it."""
    preset, start, notes = _plan(args)
    output_dir = args.output_dir or Path("runs") / preset.name
    for note in notes if is_main_process() else []:
        print(note, file=sys.stderr)
    torch.backends.cuda.matmul.allow_tf32 = preset.training.tf32  # of what is left in float32; no GPU, no effect
    accelerator = Accelerator(
        cpu=not _on_gpu(),
        mixed_precision=preset.training.mixed_precision,
        log_with="tensorboard",
        project_dir=str(output_dir),
        **accelerator_arguments(),
    )
    sharded = sharding_plugin(accelerator, preset.training) is not None
    set_seed(preset.training.seed)
    tokenizer = _ready_tokenizer(args, start)
    with accelerator.main_process_first():
        corpus = load_corpus(preset.data, args.validation_data, tokenizer, progress=accelerator.is_main_process)
    record = _record(args, preset, corpus, start)
    if start is not None:
        allowed = refuse_changes(data_changes(start.state, record["data"]), start.name, args.allow_changes)
        if allowed and accelerator.is_main_process:
            print(allowed, file=sys.stderr)
    model = _model(args, preset, corpus, start)
    planner = BatchPlanner(
        lengths=corpus.train_lengths,
        batch_size=preset.training.batch_size,
        context_length=preset.data.context_length,
        seed=preset.training.seed,
        short_canvas_share=preset.training.short_canvas_share if preset.data.layout == "rows" else 0.0,
        leading_bos=corpus.leading_bos,
        length_multiple=preset.training.length_multiple,
        length_pool=preset.training.length_pool,
    )
    pad = corpus.tokenizer.pad_token_id
    batches = StepBatches(
        corpus.train.dataset,
        planner,
        preset.training,
        model.config,
        pad,
        accelerator.process_index,
        accelerator.num_processes,
        index_labels=preset.training.compile or accelerator.device.type == "cuda",
    )
    settings = preset.training
    evaluator = Evaluator(
        corpus.validation.dataset, preset.data.context_length, pad, settings.eval_samples, settings.eval_rows
    )
    if accelerator.is_main_process:
        if args.overwrite:  # only now that nothing of the new run is wrong
            for checkpoint in list_checkpoints(output_dir):
                remove_checkpoint(checkpoint)
        output_dir.mkdir(parents=True, exist_ok=True)
        strategy = "fsdp2" if sharded else "ddp" if accelerator.num_processes > 1 else "one process"
        described = describe_run(preset, corpus, model, accelerator, strategy, record["init_from"])
        write_json_atomically(output_dir / "run.json", described)
        print(corpus.describe())
    accelerator.wait_for_everyone()
    accelerator.init_trackers("tensorboard")
    resume_from = None if start is None else start.checkpoint
    trainer = Trainer(preset, model, corpus.tokenizer, batches, evaluator, output_dir, accelerator, resume_from, record)
    complete = trainer.fit(args.stop_after)
    if complete:
        _finish(args, preset, corpus, trainer, output_dir, accelerator)
    elif accelerator.is_main_process:
        print(f"stopped at step {trainer.state.step} and saved in {output_dir}; go on with --resume")
    # Gloo can hang at exit while a wrapped model still lives.
    del trainer.model, trainer.optimizers, trainer
    accelerator.free_memory()
    accelerator.end_training()
    return 0 if complete or args.stop_after is not None else 130


class _Start(NamedTuple):
    """The checkpoint that a run resumes or branches from."""

    checkpoint: Path
    state: dict
    branch: bool

    @property
    def name(self) -> str:
        return f"{'--branch_from' if self.branch else '--resume'}: the run of {self.checkpoint}"


def _plan(args: argparse.Namespace) -> tuple[Preset, _Start | None, list[str]]:
    """What to train and from which start: makes all checks that are possible before data is read."""
    if args.stop_after is not None and args.stop_after < 1:
        raise ValueError(f"--stop_after={args.stop_after} must be at least 1")
    if args.push_to_hub:
        validate_repo_id(args.push_to_hub)
    stored = None
    if args.resume and args.preset is None:
        newest = list_checkpoints(args.output_dir or Path("runs") / DEFAULT_PRESET)[-1:]
        stored = read_state(newest[0]) if newest else None
    preset = preset_from(args, stored and stored["preset"])
    if stored and args.validation_data is None:
        args.validation_data = stored.get("run", {}).get("validation_data")
    output_dir = args.output_dir or Path("runs") / preset.name
    check_output_dir(output_dir)
    explicit = changes_of(args)
    preset, notes = apply_launcher(preset, explicit)
    preset, more = _precision_of_the_machine(preset, explicit)
    notes += more
    notes += without_effect(preset, explicit, args.init_from is not None)
    if args.init_from and "data.tokenizer" in explicit:
        raise ValueError("data.tokenizer cannot be set with --init_from: the tokenizer is that of the checkpoint")
    start = _start(output_dir, args, preset)
    if start is None and args.resume:
        notes.append(f"note: no checkpoint in {output_dir} yet: the run starts afresh")
    init_from = args.init_from or (start and start.state.get("run", {}).get("init_from"))
    if init_from is None:
        check_fit(preset)
    elif start is not None:
        preset = replace(preset, model=_model_of_record(start.state["preset"], explicit))
    else:
        preset = replace(preset, model=model_of_checkpoint(args.init_from, preset, explicit))
    if start is not None:
        asked = {"init_from": args.init_from, "validation_data": args.validation_data}
        if start.state.get("run"):
            asked["sources"] = source_hashes(preset.data, args.validation_data)
        changes = setting_changes(start.state, preset, asked, start.branch)
        notes.append(refuse_changes(changes, start.name, args.allow_changes) or "")
    return preset, start, [note for note in notes if note]


def _on_gpu() -> bool:
    return torch.cuda.is_available() and not asks_for_cpu()


def _precision_of_the_machine(preset: Preset, explicit: dict) -> tuple[Preset, list[str]]:
    """Half precision of a preset is for GPUs; one that is asked for by the user is done, or refused."""
    precision = preset.training.mixed_precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == precision
    if precision == "no" or _on_gpu():
        return preset, []
    if "training.mixed_precision" in explicit or launched:
        if precision == "fp16":
            raise ValueError("mixed_precision='fp16' needs a GPU; give bf16 or no")
        return preset, []
    note = f"note: training.mixed_precision={precision!r} of the preset is for GPUs; training in float32 here"
    return replace(preset, training=replace(preset.training, mixed_precision="no")), [note]


def _model_of_record(stored: dict, explicit: dict) -> ModelSettings:
    """The stored model of a run that was itself fine-tuned, with the command line's settings for it."""
    return preset_from_dict(stored, {key: value for key, value in explicit.items() if key.startswith("model.")}).model


def _record(args: argparse.Namespace, preset: Preset, corpus: Corpus, start: _Start | None) -> dict:
    """A checkpoint's record of its run besides the preset, to be compared when resuming."""
    data = {"train": corpus.train.summary.to_dict(), "validation": corpus.validation.summary.to_dict()}
    return {
        "init_from": args.init_from or (start and start.state.get("run", {}).get("init_from")),
        "validation_data": args.validation_data,
        "sources": source_hashes(preset.data, args.validation_data),
        "data": data,
    }


def _start(output_dir: Path, args: argparse.Namespace, preset: Preset) -> _Start | None:
    checkpoints = list_checkpoints(output_dir)
    if args.resume and checkpoints:
        return _Start(checkpoints[-1], read_state(checkpoints[-1]), False)
    if checkpoints and not args.overwrite:
        raise ValueError(
            f"--output_dir {output_dir} already holds a run (up to {checkpoints[-1].name}): give --resume to go on with "
            "it, --overwrite to delete it, or another folder"
        )
    branch = _branch_point(args.branch_from, preset.training)
    return None if branch is None else _Start(branch, read_state(branch), True)


def _branch_point(run: Path | None, settings: TrainingSettings) -> Path | None:
    """The checkpoint of another run, at its peak rate, from which the rate of this one begins to fall."""
    if run is None:
        return None
    if settings.schedule != "warmup_stable_decay":
        raise ValueError(
            "--branch_from needs training.schedule=warmup_stable_decay: the run's rate must still be at its peak"
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


def _ready_tokenizer(args: argparse.Namespace, start: _Start | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the resumed or fine-tuned model; None if the corpus has or trains one."""
    source = args.init_from if start is None else start.checkpoint
    if source is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{str(source)!r} is not a checkpoint with a tokenizer: {' '.join(str(error).split())}"
        ) from error


def _model(args: argparse.Namespace, preset: Preset, corpus: Corpus, start: _Start | None) -> PreTrainedModel:
    source = args.init_from if start is None else start.checkpoint
    if source is None:
        model = build_model(preset.model, corpus.tokenizer)
    else:
        model, _ = load_arm(source)
        if attention := preset.model.config.get("attn_implementation"):
            model.set_attn_implementation(attention)  # no checkpoint keeps it
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit and preset.data.context_length > limit:
            raise ValueError(
                f"data.context_length={preset.data.context_length} is more than the model's context, {limit}"
            )
    set_generation_defaults(model, corpus.tokenizer, preset.data.context_length)
    return model


def _finish(
    args: argparse.Namespace,
    preset: Preset,
    corpus: Corpus,
    trainer: Trainer,
    output_dir: Path,
    accelerator: Accelerator,
) -> None:
    """Export the best checkpoint as `final/`, with a card; push it where asked."""
    if not accelerator.is_main_process:
        return
    step = trainer.state.best_step
    if step is None:
        raise TrainingDiverged(
            f"the likelihood of the validation data was NaN or infinite at every evaluation; the checkpoints are in {output_dir}"
        )
    best = output_dir / f"checkpoint-{step:06d}"
    source = best if best.is_dir() else list_checkpoints(output_dir)[-1]
    model, tokenizer = load_arm(source)
    run = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    history = trainer.state.history

    final = output_dir / "final"

    def write(folder: Path) -> None:
        save_arm(model, tokenizer, folder, dtype=getattr(torch, args.save_dtype))
        write_json_atomically(folder / "training_log.json", {"run": run, "history": history})
        write_model_card(folder, preset, run, history, step, output_dir.name)

    write_folder_atomically(final, write)
    print(f"done: the model of step {step} (best validation) is in {final}, the log beside it")
    if args.push_to_hub:
        _push(final, args.push_to_hub)


def _push(folder: Path, repository: str) -> None:
    """ValueError, with the command for another try, where the Hub does not take it: the run is safe."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), ignore_patterns=[MANIFEST])
    except Exception as error:  # the client raises many kinds: its own, httpx, OSError
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the model is complete in {folder}, but was not pushed to {repository} ({type(error).__name__}: {why}); "
            f"push it with: hf upload {repository} {folder}"
        ) from error
    print(f"pushed to {repository}")


if __name__ == "__main__":
    sys.exit(main())
