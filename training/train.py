"""Train one arm: `accelerate launch training/train.py --preset mini-mdlm --data FILE_OR_HUB_ID`."""

import json
import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoTokenizer

from arche_mdlm.configuration.presets import Preset, TrainingSettings
from arche_mdlm.training.arguments import build_parser, preset_from
from arche_mdlm.training.batching import BatchPlanner
from arche_mdlm.training.build import build_model
from arche_mdlm.training.checkpointing import (
    CheckpointError,
    list_checkpoints,
    read_state,
    step_of,
    write_folder_atomically,
    write_json_atomically,
)
from arche_mdlm.training.corpus import Corpus, load_corpus
from arche_mdlm.training.evaluation import Evaluator
from arche_mdlm.training.loading import load_arm, save_arm, set_generation_defaults
from arche_mdlm.training.loop import Trainer, TrainingDiverged
from arche_mdlm.training.model_card import write_model_card
from arche_mdlm.training.optimizers import decay_start
from arche_mdlm.training.provenance import describe_run
from arche_mdlm.training.sharding import sharding_plugin
from arche_mdlm.training.step_batches import StepBatches


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status (0 complete, 130 stopped by a signal, 2 bad input)."""
    args = build_parser().parse_args(argv)
    try:
        return run(args)
    except (ValueError, FileNotFoundError, CheckpointError, TrainingDiverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(args) -> int:
    preset = preset_from(args)
    output_dir = args.output_dir or Path("runs") / preset.name
    resume_from = _resume_point(output_dir, args, preset)
    precision = preset.training.mixed_precision
    if precision != "no" and not torch.cuda.is_available():
        print(f"note: mixed_precision={precision!r} is for GPUs; training in float32 here", file=sys.stderr)
        precision = "no"
    torch.backends.cuda.matmul.allow_tf32 = preset.training.tf32  # of what is left in float32; no GPU, no effect
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision,
        log_with="tensorboard",
        project_dir=str(output_dir),
    )
    sharded = sharding_plugin(accelerator, preset.training) is not None
    set_seed(preset.training.seed)
    tokenizer = _ready_tokenizer(args)
    with accelerator.main_process_first():
        corpus = load_corpus(preset.data, args.validation_data, tokenizer, progress=accelerator.is_main_process)
    model = _model(args, preset, corpus, resume_from)
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
        output_dir.mkdir(parents=True, exist_ok=True)
        strategy = "fsdp2" if sharded else "ddp" if accelerator.num_processes > 1 else "one process"
        described = describe_run(preset, corpus, model, accelerator.num_processes, strategy)
        write_json_atomically(output_dir / "run.json", described)
        print(corpus.describe())
    accelerator.init_trackers("tensorboard")
    trainer = Trainer(preset, model, corpus.tokenizer, batches, evaluator, output_dir, accelerator, resume_from)
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


def _resume_point(output_dir: Path, args, preset: Preset) -> Path | None:
    checkpoints = list_checkpoints(output_dir)
    if args.resume and checkpoints:
        read_state(checkpoints[-1])
        return checkpoints[-1]
    if args.resume:
        return _branch_point(args.branch_from, preset.training)
    if checkpoints and not args.overwrite:
        raise ValueError(
            f"--output_dir {output_dir} already holds a run (up to {checkpoints[-1].name}): give --resume to go on with "
            "it, --overwrite to delete it, or another folder"
        )
    if args.overwrite:
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint, ignore_errors=True)  # another process may be at it too
    return _branch_point(args.branch_from, preset.training)


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


def _ready_tokenizer(args):
    """The tokenizer of the model that is fine-tuned; None where the corpus brings or trains one."""
    if args.init_from is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(args.init_from)
    except (OSError, ValueError) as error:
        raise ValueError(f"--init_from {args.init_from!r} is no checkpoint with a tokenizer: {error}") from error


def _model(args, preset: Preset, corpus: Corpus, resume_from: Path | None):
    source = resume_from or args.init_from
    if source is None:
        model = build_model(preset.model, corpus.tokenizer)
    else:
        model, _ = load_arm(source)
        wanted = {"mdlm": "mdlm", "llama": "llama", "gpt2": "gpt2"}[preset.model.architecture]
        if model.config.model_type != wanted:
            raise ValueError(
                f"{source} holds a {model.config.model_type} model, but preset {preset.name!r} trains {wanted}: "
                "choose the preset of the same arm"
            )
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit and preset.data.context_length > limit:
            raise ValueError(
                f"data.context_length={preset.data.context_length} is more than the model's context, {limit}"
            )
    set_generation_defaults(model, corpus.tokenizer, preset.data.context_length)
    return model


def _finish(args, preset, corpus, trainer, output_dir: Path, accelerator) -> None:
    """Export the best checkpoint as `final/`, with a card; push it where asked."""
    if not accelerator.is_main_process:
        return
    best = output_dir / f"checkpoint-{trainer.state.best_step:06d}"
    source = best if best.is_dir() else list_checkpoints(output_dir)[-1]
    model, tokenizer = load_arm(source)
    run = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    history = trainer.state.history

    def write(folder: Path) -> None:
        save_arm(model, tokenizer, folder, dtype=getattr(torch, args.save_dtype))
        write_json_atomically(folder / "training_log.json", {"run": run, "history": history})
        write_model_card(folder, preset, run, history, trainer.state.best_step, preset.name)

    final = output_dir / "final"
    write_folder_atomically(final, write)
    print(f"done: the model of step {trainer.state.best_step} (best validation) is in {final}, the log beside it")
    if args.push_to_hub:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(args.push_to_hub, exist_ok=True)
        api.upload_folder(repo_id=args.push_to_hub, folder_path=str(final))
        print(f"pushed to {args.push_to_hub}")


if __name__ == "__main__":
    sys.exit(main())
