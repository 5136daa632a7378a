"""Attention that opens from causal to full over the first steps of a training, for weights that come from an AR model.

Source: Gong et al. 2024, arXiv 2410.17891 (DiffuLLaMA), attention mask annealing.
"""

import numpy as np
import torch
from transformers import PreTrainedConfig

from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.sight_mdlm import sight_of


def opened_share(step: int, annealing_steps: int | None) -> float:
    """The share r of the pairs with the key behind the query that are open at a step (0-based): min(1, (step + 1) / annealing_steps)."""
    return 1.0 if annealing_steps is None else min(1.0, (step + 1) / annealing_steps)


def annealed_sight(
    settings: TrainingSettings, config: PreTrainedConfig, step: int, length: int, position_ids: torch.Tensor | None
) -> torch.Tensor | None:
    """Who sees whom at a step: `k <= q or u(q, k) < r`, within what the model sees anyway (documents, blocks of its attention).

    One draw of u, (L, L), from (seed, step), for all rows, heads and layers.

    Args:
        config: of an MDLM.
        length: L.
        position_ids: (B, L) of packed documents; None: a row is one document.

    Returns:
        (1, L, L) or, of packed documents, (B, L, L) bool, query before key, for `MDLMModel.forward(sight=)`; None from the step on at
        which all is open.
    """
    share = opened_share(step, settings.attention_annealing_steps)
    if share >= 1:
        return None
    seed = np.random.SeedSequence([settings.seed, 3, step]).generate_state(1, np.uint64)[0]
    draw = torch.rand(length, length, generator=torch.Generator().manual_seed(int(seed) >> 1))
    index = torch.arange(length)
    sees = ((index <= index[:, None]) | (draw < share))[None]
    rows = index[None] if position_ids is None else position_ids
    own = sight_of(rows, position_ids is not None, config.attention_block_length)
    return sees if own is None else sees & own.window(index.expand_as(rows))
