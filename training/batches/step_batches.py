"""The model's inputs at step s, for one process: rows, canvas, corruption, micro-batches."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from arche_mdlm.configuration.presets import TrainingSettings
from arche_mdlm.schedule_mdlm import get_schedule
from arche_mdlm.training.batches.batching import BatchPlanner, document_positions, label_positions, lay_out
from arche_mdlm.training.batches.objectives import Corrupted, corrupt_batch, loss_denominator
from arche_mdlm.training.models.fused_head import next_tokens


class StepBatches(Dataset):
    """Map from a step to its batch, so that a run can start anywhere and workers can prepare ahead.

    The noise is drawn for the whole global batch from (seed, step) and then cut into the share of this process:
    any number of processes trains on the same corrupted rows.

    Args:
        rows: a `datasets.Dataset` with `input_ids` (and `document_ids` where packed).
        model_config: of the model to be trained; an `mdlm` is given corrupted canvases, others clean rows.
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
        self.config, self.pad_token_id = model_config, pad_token_id
        self.rank, self.world_size, self.index_labels = rank, world_size, index_labels

    def __len__(self) -> int:
        return self.settings.max_steps

    def __getitem__(self, step: int) -> dict:
        """`inputs` (keyword arguments of forward, one dict a micro-batch), `denominator` (of the global loss),
        `num_tokens` (real tokens of the global batch) and `num_supervised` (those with a loss, the tail counted)."""
        plan = self.planner.plan(step)
        chosen = self.rows[plan.rows]
        rows = [dict(zip(chosen, values, strict=True)) for values in zip(*chosen.values(), strict=True)]
        diffusion = self.config.model_type == "mdlm"
        longest = max(len(row["input_ids"]) for row in rows)
        canvas = lay_out(
            rows, plan.canvas_length if diffusion else longest, self.pad_token_id, self.planner.leading_bos
        )
        if diffusion:
            inputs = self._diffusion_inputs(canvas, step)
        else:
            targets = canvas.real & canvas.maskable
            inputs = {"input_ids": canvas.input_ids, "labels": canvas.input_ids.masked_fill(~targets, -100)}
        labels = inputs["labels"] if diffusion else inputs["labels"][:, 1:]
        if diffusion:
            # Not the plan's count: a packed row holds a BOS for each of its documents.
            num_real_tokens = int((canvas.real & canvas.maskable).sum())
            denominator = loss_denominator(self.settings.objective, num_real_tokens, labels)
        else:
            denominator = max(int((labels != -100).sum()), 1)
        if canvas.document_ids is not None:
            inputs["position_ids"] = document_positions(canvas.document_ids)
        return {
            "inputs": self._share(inputs),
            "denominator": denominator,
            "num_tokens": plan.num_real_tokens,
            "num_supervised": int((labels != -100).sum()),
        }

    def _diffusion_inputs(self, canvas: Any, step: int) -> dict[str, torch.Tensor]:
        seed = np.random.SeedSequence([self.settings.seed, 2, step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) >> 1)
        corrupted: Corrupted = corrupt_batch(
            canvas.input_ids,
            canvas.maskable,
            self.settings.objective,
            get_schedule(self.config.noise_schedule),
            self.config.mask_token_id,
            generator,
            self.settings.time_sampling == "stratified",
        )
        return corrupted._asdict()

    def _share(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """This process's rows, cut into micro-batches."""
        size = self.settings.batch_size // (self.world_size * self.settings.accumulation)
        first = self.rank * size * self.settings.accumulation
        starts = range(first, first + size * self.settings.accumulation, size)
        shares = [{name: value[start : start + size] for name, value in inputs.items()} for start in starts]
        if self.index_labels:
            for share in shares:
                labels = share["labels"] if self.config.model_type == "mdlm" else next_tokens(share["labels"])
                share["positions"] = label_positions(labels != -100)
        return shares
