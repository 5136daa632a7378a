"""What `MDLMForMaskedDiffusion.forward` refuses before it computes anything."""

from typing import Any

import torch
from transformers.utils import logging
from transformers.utils.generic import is_flash_attention_requested

from .configuration_mdlm import MDLMConfig
from .family_mdlm import family_of
from .sight_mdlm import Pairs, Sight

logger = logging.get_logger(__name__)


def check_inputs(
    model: Any,  # MDLMForMaskedDiffusion, whose file imports this one
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    labels: torch.Tensor | None,
    positions: torch.Tensor | None,
    timesteps: torch.Tensor | None,
    loss_weights: torch.Tensor | None,
) -> None:
    """ValueError for inputs whose result would mean nothing."""
    canvas = input_ids if input_ids is not None else inputs_embeds
    for name, where in (("labels", labels), ("positions", positions)):
        if where is None or canvas is None or (name == "positions" and where.dtype != torch.bool):
            continue
        if where.shape != canvas.shape[:2]:
            raise ValueError(f"{name} of shape {tuple(where.shape)} do not fit {tuple(canvas.shape[:2])}")
    if labels is None:
        told = timesteps is not None and model.config.time_conditioning == "none"
        if model.training and (loss_weights is not None or told):
            raise ValueError(
                f"{'timesteps' if told else 'loss_weights'} need labels. The Trainer's "
                "label_smoothing_factor removes the labels, and is not supported: set it to 0"
            )
        if input_ids is None or positions is not None or model.training or is_traced(input_ids):
            return
        settles = family_of(model.config).corruption.has_order  # else every position is open
        if settles and not bool((input_ids == model.config.mask_token_id).any()):
            logger.warning_once(
                "No position has the mask token: the logits of a masked diffusion model are meaningless at given "
                "tokens. To score text, use arche_mdlm.metrics.likelihood.nelbo."
            )
        return
    # Who gives indices has made the batch; to look at it would make a GPU wait.
    if input_ids is None or is_traced(labels) or (positions is not None and positions.dtype != torch.bool):
        return
    if problem := family_of(model.config).corruption.missing_noise(input_ids, labels.ne(-100)):
        raise ValueError(problem)


def check_attention(config: MDLMConfig, sight: Sight | Pairs | None, rows: int, by_documents: bool) -> None:
    """ValueError if the attention backend would ignore the mask: flash attention supports no mask of query-key pairs, only the
    documents of one packed row.

    Args:
        rows: in the batch.
        by_documents: whether `sight` keeps documents apart and nothing else.
    """
    if sight is None or not is_flash_attention_requested(config) or (by_documents and rows == 1):
        return
    kind = (
        f"the documents of {rows} packed rows apart" if by_documents else f"the mask of diffusion={config.diffusion!r}"
    )
    raise ValueError(
        f"attn_implementation={config._attn_implementation!r} cannot keep {kind}: it supports no mask of query-key pairs; use 'sdpa', 'flex_attention' or 'eager'"
    )


def is_traced(values: torch.Tensor) -> bool:
    """Whether the values cannot be read: in a compiler, in an export, or on the meta device."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or values.device.type == "meta"
