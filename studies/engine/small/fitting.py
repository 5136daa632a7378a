"""One small training in this process, by the library's own loop, that goes on where it was interrupted."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedTokenizerBase

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.files.checkpointing import list_checkpoints, write_json_atomically
from arche_mdlm.training.loop.provenance import cpu_name
from arche_mdlm.training.loop.trainer import Trainer
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import load_arm, set_generation_defaults

EVALUATION_SEED = 20260322  # the same masks at every evaluation of every training


@dataclass(frozen=True)
class PartsEvaluator:
    """Scores a model on named sets of rows, always with the same masks, so that differences of evaluations are paired.

    Args:
        parts: rows of token ids, by name; "train" is not held out.
        canvas_length: of a diffusion model's canvas.
        num_samples: draws a row of a bound.
    """

    parts: Mapping[str, Sequence[Sequence[int]]]
    canvas_length: int
    pad_token_id: int
    num_samples: int = 2
    batch_size: int = 64

    def __call__(self, model: Any, accelerator: Any = None) -> dict[str, Any]:
        """`parts`: nats a token and their Monte Carlo error, by name; and what the training loop logs of the held-out ones."""
        found = {}
        for name, rows in self.parts.items():
            score = arm_of(model).score(
                model, rows, canvas_length=self.canvas_length, pad_token_id=self.pad_token_id,
                num_samples=self.num_samples, seed=EVALUATION_SEED, batch_size=self.batch_size,
            )  # fmt: skip
            found[name] = {"nats": score.nats_per_token, "standard_error": score.standard_error}
        held_out = [part for name, part in found.items() if name != "train"]
        return {
            "parts": found,
            "validation_nats": float(np.mean([part["nats"] for part in held_out])),
            "validation_standard_error": float(np.linalg.norm([part["standard_error"] for part in held_out]))
            / len(held_out),
            "validation_bits_per_byte": None,
        }


def fit(
    preset: Preset,
    tokenizer: PreTrainedTokenizerBase,
    data: Callable[[], tuple[Any, Sequence[int]]],
    evaluator: PartsEvaluator,
    folder: Path,
    start: Path | None = None,
) -> dict:
    """Train a model in `folder`, which keeps its last checkpoint; a finished training is not done again.

    Args:
        data: gives the rows, which map indices to columns as a `datasets.Dataset` does, and the length of each.
        start: a checkpoint whose weights it begins from, with a fresh state of the optimiser; default: random ones.

    Returns:
        `checkpoint` (relative to `folder`), `steps`, `tokens`, `seconds`, `parameters`, `history`, `device`, `versions`.

    Raises:
        KeyboardInterrupt: after a signal; the training has saved itself.
        TrainingDiverged: the loss became NaN or infinite.
    """
    done = folder / "trained.json"
    if not done.is_file():
        write_json_atomically(done, _fit(preset, tokenizer, *data(), evaluator, folder, start))
    result = json.loads(done.read_text(encoding="utf-8"))
    for checkpoint in list_checkpoints(folder):
        if checkpoint.name != result["checkpoint"]:
            shutil.rmtree(checkpoint)
    (folder / result["checkpoint"] / "optimizer.pt").unlink(missing_ok=True)
    return result


def _fit(
    preset: Preset,
    tokenizer: PreTrainedTokenizerBase,
    rows: Any,
    lengths: Sequence[int],
    evaluator: PartsEvaluator,
    folder: Path,
    start: Path | None,
) -> dict:
    settings, context = preset.training, preset.data.context_length
    device = default_device()
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=settings.mixed_precision)
    set_seed(settings.seed)
    earlier = list_checkpoints(folder)
    origin = earlier[-1] if earlier else start
    model = build_model(preset.model, tokenizer) if origin is None else load_arm(origin)[0]
    set_generation_defaults(model, tokenizer, context)
    planner = BatchPlanner(
        lengths, settings.batch_size, context, settings.seed, settings.short_canvas_share, True,
        settings.length_multiple, settings.length_pool,
    )  # fmt: skip
    batches = StepBatches(rows, planner, settings, model.config, tokenizer.pad_token_id)
    trainer = Trainer(
        preset,
        model,
        tokenizer,
        batches,
        evaluator,  # type: ignore[arg-type]  # it is called as an `Evaluator` is
        folder,
        accelerator,
        earlier[-1] if earlier else None,
    )
    if not trainer.fit():
        raise KeyboardInterrupt
    state = trainer.state
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "checkpoint": list_checkpoints(folder)[-1].name,
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": state.history,
        "device": cpu_name() if device == "cpu" else torch.cuda.get_device_name(device),
        "versions": versions,
    }
