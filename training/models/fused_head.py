"""The same chunked head and loss for the AR arm: a stock model of transformers, whose forward is replaced during training.

Liger-Kernel replaces it in the same way. Weights, configuration and saved files stay those of the stock class.
"""

from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from arche_mdlm.head_loss_mdlm import module_loss


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """(B, L): at each position the label of the next one, -100 at the last."""
    return functional.pad(labels[:, 1:], (0, 1), value=-100)


def fuse_head(model: PreTrainedModel) -> None:
    """Let a causal LM compute its training loss without ever holding all logits; they must be its head's of its trunk's states.

    In training mode with `labels`, forward then returns `loss` alone; in all other cases it is the stock one. It also takes
    `positions` (N,), indices into the B * L of each position whose next token is labelled, and of any number of others,
    which count for nothing (as `MDLMForMaskedDiffusion.forward` does).
    """
    stock = type(model).forward  # not of this instance: averaged weights are a copy of it

    def forward(
        self: Any,
        *args: Any,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if labels is None or not self.training:
            extra = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            return stock(self, *args, labels=labels, **extra, **kwargs)
        hidden = self.base_model(*args, **kwargs)[0]
        targets = next_tokens(labels).flatten()
        scored = targets != -100
        where = scored if positions is None else positions
        loss, _ = module_loss(
            self.get_output_embeddings(),
            hidden.flatten(0, 1)[where],
            targets[where].clamp(min=0),
            scored[where].float(),
        )
        return CausalLMOutputWithPast(loss=loss / (scored.sum() if num_items_in_batch is None else num_items_in_batch))

    model.forward = MethodType(forward, model)
