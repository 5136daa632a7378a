"""One training run, from its request to its result."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.data.corpus import Corpus, load_corpus, source_hashes
from arche_mdlm.training.files.checkpointing import list_checkpoints, remove_checkpoint, write_json_atomically
from arche_mdlm.training.launcher import accelerator_arguments, is_main_process
from arche_mdlm.training.loop.before_after import show_change
from arche_mdlm.training.loop.evaluation import Evaluator, some_rows
from arche_mdlm.training.loop.export import create_repository, export_best, push, push_checkpoint
from arche_mdlm.training.loop.provenance import describe_run
from arche_mdlm.training.loop.resuming import data_changes, refuse_changes
from arche_mdlm.training.loop.sharding import sharding_plugin
from arche_mdlm.training.loop.trackers import start_trackers, trackers_of
from arche_mdlm.training.loop.trainer import Trainer
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.cost import total_cost
from arche_mdlm.training.models.loading import load_arm, set_generation_defaults
from arche_mdlm.training.plan import TrainingPlan, make_plan, on_gpu, with_steps
from arche_mdlm.training.request import TrainingRequest, TrainingResult


def run(request: TrainingRequest) -> TrainingResult:
    """Train one arm, or go on with a run; in each process that a launcher has started.

    Raises:
        ValueError: for anything wrong in the request, its data or its checkpoints, before anything is written; or where
            the Hub does not take the model.
        OSError, CheckpointError: for data that is missing, a full disk.
        TrainingDiverged: the loss became NaN or infinite.
    """
    plan = make_plan(request)
    _tell(plan.notes if is_main_process() else ())
    accelerator = _accelerator(plan)
    sharded = sharding_plugin(accelerator, plan.preset.training) is not None
    set_seed(plan.preset.training.seed)
    tokenizer = _ready_tokenizer(plan.weights)
    with accelerator.main_process_first():
        corpus = load_corpus(
            plan.preset.data, plan.request.validation_data, tokenizer, progress=accelerator.is_main_process
        )
    plan = with_steps(plan, len(corpus.train.dataset))
    _tell(plan.notes if is_main_process() and plan.preset.training.epochs is not None else ())
    record = _record(plan, corpus)
    _compare_data(plan, record, accelerator)
    model = _model(plan, corpus)
    batches, evaluator = _batches(plan, corpus, model, accelerator), _evaluator(plan, corpus)
    on_saved = _pusher(plan, accelerator)
    if accelerator.is_main_process:
        strategy = "fsdp2" if sharded else "ddp" if accelerator.num_processes > 1 else "one process"
        command = plan.request.command
        before = total_cost(plan.init_from)
        described = describe_run(plan.preset, corpus, model, accelerator, strategy, plan.init_from, command, before)
        _open_output(plan, described)
        print(corpus.describe())
    accelerator.wait_for_everyone()
    start_trackers(accelerator, plan.request.report_to, plan.output_dir.name, plan.preset.to_dict())
    resume_from = None if plan.start is None else plan.start.checkpoint
    trainer = Trainer(
        plan.preset, model, corpus.tokenizer, batches, evaluator, plan.output_dir, accelerator, resume_from, record,
        on_saved, _train_evaluator(plan, corpus),
    )  # fmt: skip
    if plan.init_from and plan.start is None:
        trainer.evaluate_start()
    complete = trainer.fit(plan.request.stop_after)
    step = trainer.state.step
    if accelerator.is_main_process:
        _conclude(plan, trainer, complete, sharded)
    # Gloo can hang at exit while a wrapped model still lives.
    del trainer.model, trainer.optimizers, trainer
    accelerator.free_memory()
    accelerator.end_training()
    return TrainingResult(plan.output_dir, step, complete, not complete and plan.request.stop_after is None)


def _tell(notes: tuple[str, ...]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _accelerator(plan: TrainingPlan) -> Accelerator:
    torch.backends.cuda.matmul.allow_tf32 = plan.preset.training.tf32  # of what is left in float32; no GPU, no effect
    return Accelerator(
        cpu=not on_gpu(),
        mixed_precision=plan.preset.training.mixed_precision,
        log_with=trackers_of(plan.request.report_to, plan.output_dir) or None,
        project_dir=str(plan.output_dir),
        **accelerator_arguments(),
    )


def _ready_tokenizer(source: str | Path | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the resumed or fine-tuned model; None if the corpus has or trains one."""
    if source is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{str(source)!r} is not a checkpoint with a tokenizer: {' '.join(str(error).split())}"
        ) from error


def _record(plan: TrainingPlan, corpus: Corpus) -> dict[str, Any]:
    """A checkpoint's record of its run besides the preset, to be compared when resuming."""
    return {
        "init_from": plan.init_from,
        "validation_data": plan.request.validation_data,
        "sources": source_hashes(plan.preset.data, plan.request.validation_data),
        "data": {"train": corpus.train.summary.to_dict(), "validation": corpus.validation.summary.to_dict()},
    }


def _compare_data(plan: TrainingPlan, record: dict[str, Any], accelerator: Accelerator) -> None:
    """ValueError where the data is not that of the run which goes on, and that is not allowed."""
    if plan.start is None:
        return
    changes = data_changes(plan.start.state, record["data"])
    note = refuse_changes(changes, plan.start.name, plan.request.allow_changes)
    if note and accelerator.is_main_process:
        _tell((note,))


def _model(plan: TrainingPlan, corpus: Corpus) -> PreTrainedModel:
    preset = plan.preset
    if plan.weights is None:
        model = build_model(preset.model, corpus.tokenizer)
    else:
        model, _ = load_arm(plan.weights)
        if attention := preset.model.config.get("attn_implementation"):
            model.set_attn_implementation(attention)  # no checkpoint keeps it
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit and preset.data.context_length > limit:
            raise ValueError(
                f"data.context_length={preset.data.context_length} is more than the model's context, {limit}"
            )
    set_generation_defaults(model, corpus.tokenizer, preset.data.context_length)
    return model


def _batches(plan: TrainingPlan, corpus: Corpus, model: PreTrainedModel, accelerator: Accelerator) -> StepBatches:
    data, training = plan.preset.data, plan.preset.training
    planner = BatchPlanner(
        lengths=corpus.train_lengths,
        batch_size=training.batch_size,
        context_length=data.context_length,
        seed=training.seed,
        short_canvas_share=training.short_canvas_share if data.layout == "rows" else 0.0,
        leading_bos=corpus.leading_bos,
        length_multiple=training.length_multiple,
        length_pool=training.length_pool,
    )
    return StepBatches(
        corpus.train.dataset,
        planner,
        training,
        model.config,
        corpus.tokenizer.pad_token_id,
        accelerator.process_index,
        accelerator.num_processes,
        index_labels=training.compile or accelerator.device.type == "cuda",
    )


def _evaluator(plan: TrainingPlan, corpus: Corpus) -> Evaluator:
    data, training = plan.preset.data, plan.preset.training
    rows, pad = corpus.validation.dataset, corpus.tokenizer.pad_token_id
    return Evaluator(rows, data.context_length, pad, training.eval_samples, training.eval_rows)


def _train_evaluator(plan: TrainingPlan, corpus: Corpus) -> Evaluator | None:
    """Of training rows that the seed chooses, so that memorisation shows; no more of them than of held-out rows."""
    data, training = plan.preset.data, plan.preset.training
    if training.eval_train_rows is None:
        return None
    number = min(training.eval_train_rows, training.eval_rows or training.eval_train_rows)
    rows = some_rows(corpus.train.dataset, number, training.seed)
    return Evaluator(rows, data.context_length, corpus.tokenizer.pad_token_id, training.eval_samples)


def _pusher(plan: TrainingPlan, accelerator: Accelerator) -> Callable[[Path], None] | None:
    """What uploads each checkpoint. The repository is made now: a name or a token that is wrong is known before training."""
    repository = plan.request.push_to_hub
    if not plan.request.push_checkpoints or repository is None or not accelerator.is_main_process:
        return None
    create_repository(repository, plan.request.hub_private)
    return partial(push_checkpoint, repository=repository)


def _open_output(plan: TrainingPlan, described: dict[str, Any]) -> None:
    """Make the output folder of a run that is known to be right, and describe the run in it."""
    if plan.request.overwrite:  # only now that nothing of the new run is wrong
        for checkpoint in list_checkpoints(plan.output_dir):
            remove_checkpoint(checkpoint)
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomically(plan.output_dir / "run.json", described)


def _conclude(plan: TrainingPlan, trainer: Trainer, complete: bool, sharded: bool) -> None:
    if not complete:
        print(f"stopped at step {trainer.state.step} and saved in {plan.output_dir}; continue with --resume")
        return
    final = export_best(plan.output_dir, plan.preset, trainer.state, plan.request.save_dtype)
    if (
        plan.init_from and trainer.state.best_step is not None and not sharded
    ):  # a sharded model is too large for one process
        show_change(plan.init_from, final, trainer.state.history, trainer.state.best_step)
    if plan.request.push_to_hub:
        push(final, plan.request.push_to_hub, plan.request.hub_private)
