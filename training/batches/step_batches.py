"""The model's inputs at step s, for one process: rows, canvas, corruption, micro-batches."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training.batches.annealing import annealed_sight
from arche_mdlm.training.batches.batching import BatchPlanner, document_positions, label_positions, lay_out
from arche_mdlm.training.models.arms import arm_of


class StepBatches(Dataset):
    """Map from a step to its batch, so that a run can start anywhere and workers can prepare ahead.

    The noise is drawn for the whole global batch from (seed, step) and then cut into the share of this process:
    any number of processes trains on the same corrupted rows.

    Args:
        rows: a `datasets.Dataset` with `input_ids` (and `document_ids` where packed).
        model_config: of the model to be trained, whose arm makes the inputs.
        index_labels: give `positions` too, for a GPU or a compiler; the loss is the same.

    Raises:
        ValueError: when batch_size does not divide into processes times accumulation.
    """

    def __init__(
        self,
        rows: Any,
        planner: BatchPlanner,
        settings: TrainingSettings,
        model_config: Any,
        pad_token_id: int,
        rank: int = 0,
        world_size: int = 1,
        index_labels: bool = False,
    ) -> None:
        if settings.batch_size % (world_size * settings.accumulation):
            raise ValueError(
                f"training.batch_size={settings.batch_size} must be a multiple of the {world_size} processes times "
                f"training.accumulation={settings.accumulation}"
            )
        self.rows, self.planner, self.settings = rows, planner, settings
        self.config, self.pad_token_id, self.arm = model_config, pad_token_id, arm_of(model_config)
        self.rank, self.world_size, self.index_labels = rank, world_size, index_labels

    def __len__(self) -> int:
        return self.settings.max_steps

    def __getitem__(self, step: int) -> dict:
        """`inputs` (keyword arguments of forward, one dict a micro-batch), `denominator` (of the global loss),
        `num_tokens` (real tokens of the global batch) and `num_supervised` (those with a loss, the tail counted)."""
        plan = self.planner.plan(step)
        chosen = self.rows[plan.rows]
        rows = [dict(zip(chosen, values, strict=True)) for values in zip(*chosen.values(), strict=True)]
        length = self.arm.canvas_length(plan.canvas_length, max(len(row["input_ids"]) for row in rows))
        canvas = lay_out(rows, length, self.pad_token_id, self.planner.leading_bos)
        inputs = self.arm.inputs(canvas, self.settings, self.config, self._generator(step), step)
        supervised = self.arm.targets(inputs["labels"]) != -100
        # Not the plan's count: a packed row holds a BOS for each of its documents.
        num_real_tokens = int((canvas.real & canvas.maskable).sum())
        if canvas.document_ids is not None:
            inputs["position_ids"] = document_positions(canvas.document_ids)
        if self.settings.attention_annealing_steps is not None:
            sight = annealed_sight(self.settings, self.config, step, length, inputs.get("position_ids"))
            inputs |= {} if sight is None else {"sight": sight}
        return {
            "inputs": self._share(inputs),
            "denominator": self.arm.loss_denominator(self.settings.objective, num_real_tokens, supervised),
            "num_tokens": plan.num_real_tokens,
            "num_supervised": int(supervised.sum()),
        }

    def _generator(self, step: int) -> torch.Generator:
        """The noise of a step's whole global batch."""
        seed = np.random.SeedSequence([self.settings.seed, 2, step]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed) >> 1)

    def _share(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """This process's rows, cut into micro-batches. A tensor of one row is for all of them."""
        size = self.settings.batch_size // (self.world_size * self.settings.accumulation)
        first = self.rank * size * self.settings.accumulation
        starts = range(first, first + size * self.settings.accumulation, size)
        shares = [
            {
                name: value[start : start + size] if isinstance(value, torch.Tensor) and len(value) > 1 else value
                for name, value in inputs.items()
            }
            for start in starts
        ]
        if self.index_labels:
            for share in shares:
                share["positions"] = label_positions(self.arm.targets(share["labels"]) != -100)
        return shares
