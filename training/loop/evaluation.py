"""Deterministic evaluation on the whole validation split: exact NLL of the AR arm, NELBO of the diffusion arm."""

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
