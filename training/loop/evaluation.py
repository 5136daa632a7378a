"""Deterministic evaluation, on the validation split and on some training rows: exact NLL of the AR arm, NELBO of the diffusion arm."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel

from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood
from arche_mdlm.training.models.arms import arm_of

_SEED = 20260322  # the same masks at every evaluation of every run


@dataclass(frozen=True)
class Evaluator:
    """Scores a model on held-out rows.

    Args:
        rows: a `datasets.Dataset` with `input_ids` (leading BOS included), `num_bytes`, and `num_given` where prompts are given: the
            likelihood is then that of the answers.
        canvas_length: the diffusion arm's; its tail is scored too (docs/formulas.md, The canvas).
        num_samples: draws a row of the NELBO estimator.
    """

    rows: Any
    canvas_length: int
    pad_token_id: int
    num_samples: int = 2
    max_rows: int | None = None
    batch_size: int = 32

    def __call__(self, model: PreTrainedModel, accelerator: Accelerator | None = None) -> dict[str, Any]:
        """`validation_nats` (a token), `validation_standard_error`, `validation_bits_per_byte`,
        `validation_nats_per_story`. Every process of an accelerator scores its share and returns the same figures."""
        score = self.score(model, accelerator)
        return {
            "validation_nats": score.nats_per_token,
            "validation_standard_error": score.standard_error,
            "validation_bits_per_byte": score.bits_per_byte,
            "validation_nats_per_story": score.nats_per_story,
        }

    def on_training_rows(self, model: PreTrainedModel, accelerator: Accelerator | None = None) -> dict[str, Any]:
        """`train_nats` (a token), `train_standard_error`, `train_bits_per_byte`, where `rows` are training rows."""
        score = self.score(model, accelerator)
        return {
            "train_nats": score.nats_per_token,
            "train_standard_error": score.standard_error,
            "train_bits_per_byte": score.bits_per_byte,
        }

    def score(self, model: PreTrainedModel, accelerator: Accelerator | None = None) -> CorpusLikelihood:
        """The same with the nats of each row."""
        count = len(self.rows) if self.max_rows is None else min(self.max_rows, len(self.rows))
        # Views of the memory-mapped file: as Python's lists 20 million tokens would take half a gigabyte.
        chosen = self.rows.with_format("numpy", dtype=np.int32)[:count]
        num_bytes = chosen["num_bytes"].tolist() if "num_bytes" in chosen else None
        num_given = chosen["num_given"].tolist() if "num_given" in chosen else None
        return arm_of(model).score(
            model,
            chosen["input_ids"],
            canvas_length=self.canvas_length,
            pad_token_id=self.pad_token_id,
            num_bytes=num_bytes,
            num_given=num_given,
            num_samples=self.num_samples,
            seed=_SEED,
            batch_size=self.batch_size,
            processes=accelerator,
        )


def some_rows(rows: Any, number: int, seed: int) -> Any:
    """`number` rows of a `datasets.Dataset` drawn without replacement, in its order, always the same for a seed; all if it has fewer."""
    if number >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), number, replace=False)
    return rows.select(sorted(chosen.tolist()))


def in_words(result: dict) -> str:
    """An evaluation as a line."""
    bits = result["validation_bits_per_byte"]  # windows do not know their bytes
    said = f"validation {result['validation_nats']:.4f} nats a token (+- {result['validation_standard_error']:.4f})"
    said += f", {bits:.4f} bits a byte" if bits else ""
    if "train_nats" in result:
        said += f"; training rows {result['train_nats']:.4f} nats a token (+- {result['train_standard_error']:.4f})"
    return said
