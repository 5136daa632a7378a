"""One small training in this process, by the library's own loop, that goes on where it was interrupted."""

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood
from arche_mdlm.studies.engine.small.endings import Endings, Rows
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
        endings: of named sets of rows, to be told from corrupted ones.
    """

    parts: Mapping[str, Sequence[Sequence[int]]]
    canvas_length: int
    pad_token_id: int
    num_samples: int = 2
    batch_size: int = 64
    endings: Mapping[str, Endings] = field(default_factory=dict)

    def __call__(self, model: Any, accelerator: Any = None) -> dict[str, Any]:
        """`parts`: nats a token and their Monte Carlo error, by name; `endings`, where there are some: the share of pairs whose true
        ending is likelier, with the same masks for both, and how many pairs; and what the training loop logs of the held-out rows."""
        found = {}
        for name, rows in self.parts.items():
            score = self._score(model, rows)
            found[name] = {"nats": score.nats_per_token, "standard_error": score.standard_error}
        held_out = [part for name, part in found.items() if name != "train"]
        return {
            "parts": found,
            "validation_nats": float(np.mean([part["nats"] for part in held_out])),
            "validation_standard_error": float(np.linalg.norm([part["standard_error"] for part in held_out]))
            / len(held_out),
            "validation_bits_per_byte": None,
            **({"endings": self._endings(model)} if self.endings else {}),
        }

    def _score(self, model: Any, rows: Rows, **options: Any) -> CorpusLikelihood:
        return arm_of(model).score(
            model, rows, canvas_length=self.canvas_length, pad_token_id=self.pad_token_id,
            num_samples=self.num_samples, seed=EVALUATION_SEED, batch_size=self.batch_size, **options,
        )  # fmt: skip

    def _endings(self, model: Any) -> dict[str, dict]:
        def nats(rows: Rows, num_given: Sequence[int]) -> list[float]:
            return self._score(model, rows, num_given=num_given).nats

        return {name: {"share": own.share(nats), "pairs": len(own.true)} for name, own in self.endings.items()}


def fit(
    preset: Preset,
    tokenizer: PreTrainedTokenizerBase,
    data: Callable[[], tuple[Any, Sequence[int]]],
    evaluator: PartsEvaluator,
    folder: Path,
    start: Path | None = None,
) -> dict:
    """Train a model in `folder`, which keeps its last checkpoint and its best ones; a finished training is not done again.

    Args:
        data: gives the rows, which map indices to columns as a `datasets.Dataset` does, and the length of each.
        start: a checkpoint whose weights it begins from, with a fresh state of the optimiser; default: random ones.

    Returns:
        `checkpoint` (the last one, relative to `folder`), `best` (by held-out part the checkpoint that is best on it, if it is one of the
        last `training.keep_checkpoints` that the run had by then), `steps`, `tokens`, `seconds`, `parameters`, `history`, `device`, `versions`.

    Raises:
        KeyboardInterrupt: after a signal; the training has saved itself.
        TrainingDiverged: the loss became NaN or infinite.
    """
    done = folder / "trained.json"
    if not done.is_file():
        write_json_atomically(done, _fit(preset, tokenizer, *data(), evaluator, folder, start))
    result = json.loads(done.read_text(encoding="utf-8"))
    _keep(folder, {result["checkpoint"], *result["best"].values()})
    for checkpoint in list_checkpoints(folder):
        (checkpoint / "optimizer.pt").unlink(missing_ok=True)
    return result


def _keep(folder: Path, names: Collection[str]) -> None:
    """Delete all other checkpoints."""
    for checkpoint in list_checkpoints(folder):
        if checkpoint.name not in names:
            shutil.rmtree(checkpoint)


def _best(history: Sequence[dict]) -> dict[str, str]:
    """Of each held-out part, the name of the checkpoint of the evaluation that is best on it, the first one of equals."""
    evaluations = [entry for entry in history if "parts" in entry]
    found = {}
    for part in evaluations[0]["parts"] if evaluations else ():
        nats = [entry["parts"][part]["nats"] for entry in evaluations]
        found[part] = f"checkpoint-{evaluations[int(np.argmin(nats))]['step']:06d}"
    return {part: name for part, name in found.items() if part != "train"}


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
        on_saved=lambda newest: _keep(folder, {newest.name, *_best(trainer.state.history).values()}),
    )
    if not trainer.fit():
        raise KeyboardInterrupt
    state = trainer.state
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    kept = [checkpoint.name for checkpoint in list_checkpoints(folder)]
    return {
        "checkpoint": kept[-1],
        "best": {part: name for part, name in _best(state.history).items() if name in kept},
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": state.history,
        "device": cpu_name() if device == "cpu" else torch.cuda.get_device_name(device),
        "versions": versions,
    }
