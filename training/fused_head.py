"""The same chunked head and loss for the AR arm: a stock model of transformers, whose forward is exchanged while it trains.

Liger-Kernel exchanges it in the same way. Weights, configuration and what is saved stay those of the stock class.
"""

from types import MethodType

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from arche_mdlm.head_loss_mdlm import head_loss


def fuse_head(model: PreTrainedModel) -> None:
    """Let a causal LM with a plain linear head compute its training loss without ever holding all logits.

    In training mode with `labels`, forward then returns `loss` alone; in all other cases it is the stock one. ValueError for
    a head with a bias, which `head_loss` does not know.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise ValueError(f"the head of {type(model).__name__} is no linear layer without bias: {head!r}")
    stock = type(model).forward  # not of this instance: averaged weights are a copy of it

    def forward(self, *args, labels=None, num_items_in_batch=None, **kwargs):
        if labels is None or not self.training:
            extra = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            return stock(self, *args, labels=labels, **extra, **kwargs)
        hidden = self.base_model(*args, **kwargs)[0]
        targets = labels[:, 1:]
        scored = targets != -100
        loss, _ = head_loss(hidden[:, :-1][scored], self.get_output_embeddings().weight, targets[scored])
        return CausalLMOutputWithPast(loss=loss / (scored.sum() if num_items_in_batch is None else num_items_in_batch))

    model.forward = MethodType(forward, model)
