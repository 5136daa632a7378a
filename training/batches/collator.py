"""A collator for transformers' `Trainer`: rows of tokens to corrupted batches, whose loss is the NELBO."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from arche_mdlm.family_mdlm import family_of

_IGNORED = -100  # the label of a token without a loss, as everywhere in transformers


class DataCollatorForMaskedDiffusion:
    """Lays rows out on one canvas, draws their times, stratified over the batch, corrupts them, and labels them.

    With the objective `"nelbo"` the mean loss is the NELBO in nats a token, in training and as `eval_loss`: the losses of the padded
    tail count, and are divided by the rows' own tokens, without a BOS and given tokens, as in `metrics.corpus_likelihood`. A batch is
    divided by its own tokens, so the Trainer's mean over batches of different sizes is the mean of their ratios.

    The noise comes from PyTorch's generator, so that `set_seed`, workers and resuming do what they do elsewhere, and differs between
    processes.

    Args:
        model: an MDLM of any family, also behind PEFT, or its configuration.
        pad_token_id: fills the tail; default: the configuration's.
        length: of the canvas in tokens, at most the model's context. None: the longest row of the batch, as in LLaDA's fine-tuning
            (Nie et al. 2025, arXiv 2502.09992).
        objective: one of the noise's (`Corruption.objectives`); only `"nelbo"` gives a bound.
        generator: in place of PyTorch's.

    Raises:
        ValueError: for a model that is not an MDLM, an unknown objective, a length that does not fit, or no pad token.
    """

    def __init__(
        self,
        model: Any,
        pad_token_id: int | None = None,
        length: int | None = None,
        objective: str = "nelbo",
        generator: torch.Generator | None = None,
    ) -> None:
        config = getattr(model, "config", model)
        if getattr(config, "model_type", None) != "mdlm":
            raise ValueError(
                f"model={type(model).__name__} is not a diffusion model; an autoregressive one takes transformers' "
                "DataCollatorForLanguageModeling(tokenizer, mlm=False)"
            )
        self.family, self.config = family_of(config), config
        self.family.corruption.loss_weights(objective, torch.ones(1))  # refuses an unknown one
        context = config.max_position_embeddings
        if length is not None and not 1 < length <= context:
            raise ValueError(f"length={length} must be at least 2 and at most the model's context, {context}, or None")
        self.pad_token_id = config.pad_token_id if pad_token_id is None else pad_token_id
        if self.pad_token_id is None:
            raise ValueError("pad_token_id=None: the model config has none either; pass that of the tokenizer")
        self.length, self.objective, self.generator = length, objective, generator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Keyword arguments of the model's forward for a batch.

        Args:
            rows: each with `input_ids` (n,), BOS and EOS included; optionally `attention_mask` (n,), 0 at padding, which is taken off,
                and `labels` (n,), -100 at tokens that are given: a prompt is neither corrupted nor learnt.

        Raises:
            ValueError: for a row that is longer than the canvas, holds the mask token, or has nothing to learn.
        """
        tokens, open, real = self._canvas([self._row(index, row) for index, row in enumerate(rows)])
        corrupted = self.family.corrupt(tokens, open, self.objective, self._stream())
        batch: dict[str, Any] = corrupted.inputs()
        if self.family.corruption.tells_noise:
            batch["objective"] = self.objective
        # Without times the model would divide by the labelled tokens, with them by the canvas.
        batch["num_items_in_batch"] = int((open & real).sum())
        return batch

    def _row(self, index: int, row: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) tokens of a row and (n,) bool, which of them are to be learnt."""
        if "input_ids" not in row:
            raise ValueError(
                f"row {index} has no input_ids, but {', '.join(row) or 'nothing'}: tokenise the texts first. The Trainer drops "
                "columns that are not arguments of the model's forward"
            )
        ids = torch.as_tensor(row["input_ids"], dtype=torch.long)
        attended = torch.as_tensor(row.get("attention_mask", torch.ones_like(ids))).bool()
        learnt = torch.as_tensor(row.get("labels", ids)) != _IGNORED
        for name, values in (("attention_mask", attended), ("labels", learnt)):
            if values.shape != ids.shape:
                raise ValueError(f"row {index}: {name} of shape {tuple(values.shape)} do not fit {tuple(ids.shape)}")
        ids, learnt = ids[attended], learnt[attended]
        if len(ids) and int(ids[0]) == (-1 if self.config.bos_token_id is None else self.config.bos_token_id):
            learnt[0] = False
        most = self.config.max_position_embeddings if self.length is None else self.length
        if len(ids) > most:
            raise ValueError(
                f"row {index} has {len(ids)} tokens, but the canvas has {most}: truncate it when tokenising"
            )
        if bool((ids == self.config.mask_token_id).any()):
            raise ValueError(f"row {index} contains mask_token_id={self.config.mask_token_id}; give clean tokens")
        if not bool(learnt.any()):
            raise ValueError(f"row {index} has no token to learn besides BOS and given tokens (labels -100)")
        return ids, learnt

    def _canvas(self, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L) tokens, bool which may be corrupted, the tail included, and bool which are the rows' own."""
        length = max(len(ids) for ids, _ in rows) if self.length is None else self.length
        tokens = torch.full((len(rows), length), self.pad_token_id)
        open, real = torch.ones(len(rows), length, dtype=torch.bool), torch.zeros(len(rows), length, dtype=torch.bool)
        for index, (ids, learnt) in enumerate(rows):
            tokens[index, : len(ids)], open[index, : len(ids)], real[index, : len(ids)] = ids, learnt, True
        return tokens, open, real

    def _stream(self) -> torch.Generator:
        """The noise of a batch, of this process."""
        seed = int(torch.randint(0, 2**62, (), generator=self.generator))
        words = np.random.SeedSequence([seed, int(os.environ.get("RANK", 0))]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]) >> 1)
