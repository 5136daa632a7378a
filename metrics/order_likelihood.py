"""Likelihood of an Eso-LM along orders of writing, one token at a time, in nats."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from arche_mdlm.esoteric_mdlm import Esoteric
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.batch_sizes import AUTO, BatchSize
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood, _canvases, _check_rows, _summary
from arche_mdlm.metrics.likelihood import draw_nats, draws_of_rows
from arche_mdlm.metrics.rows import checked_clean, scored_positions


class OrderLikelihood(NamedTuple):
    """Of B rows, BOS not scored, from K orders of writing each."""

    nats: torch.Tensor  # (B,) float64, the mean over orders of -log p(x | order)
    importance_weighted: torch.Tensor  # (B,) float64, -log of the mean of p(x | order), whose mean falls to -log p(x)


def order_nll(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    condition_mask: torch.Tensor | None = None,
    num_orders: int = 4,
    generator: torch.Generator | None = None,
    batch_size: int | str | BatchSize = AUTO,
) -> OrderLikelihood:
    """Negative log-likelihood of each row when its tokens are written one at a time, along random orders.

    Orders are those of the model: each position is written by diffusion with probability alpha_0, those first, in any order, then
    the others from left to right (Sahoo et al. 2025, arXiv 2506.01928). A forward of [z ; x], with all of z masked, gives the exact
    likelihood along an order. `nelbo` bounds the likelihood of another sampler, which predicts several tokens at once; neither bounds
    the other.

    Args:
        model (`MDLMForMaskedDiffusion`): with `diffusion="eso"`. With alpha_0 = 0 there is one order.
        input_ids (`torch.LongTensor`, (B, L)): clean texts.
        attention_mask (`torch.Tensor`, (B, L), *optional*): 0 at padding, on either side.
        condition_mask (`torch.BoolTensor`, (B, L), *optional*): as in `nelbo`; the orders are those of the other tokens, behind the given ones.
        num_orders (`int`, defaults to 4): K, orders a row, each a forward.
        generator (`torch.Generator`, *optional*): one seed is drawn from it for each row.
        batch_size (`int`, `"auto"` or `BatchSize`, defaults to `"auto"`): as in `nelbo`.

    Returns:
        `OrderLikelihood`: two estimates in nats, each (B,), float64. The second falls with K.

    Raises:
        ValueError: for a model of another family, num_orders below 1, and what `nelbo` refuses of rows.

    Example:

    ```python
    >>> import torch
    >>> from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
    >>> from arche_mdlm.metrics.order_likelihood import order_nll
    >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> config = MDLMConfig(vocab_size=32, mask_token_id=31, diffusion="eso", alpha_0=0.5, **sizes)
    >>> model = MDLMForMaskedDiffusion(config)
    >>> found = order_nll(model, torch.tensor([[5, 6, 8, 7]]), num_orders=8)
    >>> bool(found.importance_weighted <= found.nats)
    True

    ```
    """
    order = family_of(model).order
    if not isinstance(order, Esoteric):
        raise ValueError(
            f"order_nll is for diffusion='eso'; this model has diffusion={getattr(model.config, 'diffusion', 'masked')!r}: "
            "use metrics.likelihood.nelbo, or metrics.policy_likelihood.policy_nll for a fixed order"
        )
    if num_orders < 1:
        raise ValueError(f"num_orders={num_orders} must be at least 1")
    attention_mask = checked_clean(model, input_ids, attention_mask, batch_size)
    scored = scored_positions(input_ids, attention_mask, model.config, condition_mask)
    seeds = torch.randint(0, 2**62, (len(input_ids),), generator=generator).tolist()
    draw = partial(order.orders, corruption=family_of(model).corruption, num_orders=num_orders)
    draws = draws_of_rows(draw, input_ids, scored, attention_mask, seeds)
    nats = draw_nats(model, input_ids, attention_mask, draws, num_orders, batch_size)
    return OrderLikelihood(nats.mean(1), math.log(num_orders) - (-nats).logsumexp(1))


def corpus_order_nll(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    *,
    canvas_length: int,
    pad_token_id: int,
    num_orders: int = 4,
    num_bytes: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | str | BatchSize = AUTO,
) -> CorpusLikelihood:
    """`importance_weighted` nats of stories (BOS ... EOS token ids), each on a canvas whose padded tail is attended and counted.

    In expectation an upper bound on the likelihood of writing a token at a time, which falls to it with `num_orders`. ValueError as
    `corpus_nelbo` and `order_nll`.
    """
    _check_rows(rows, num_bytes)
    canvases = _canvases(rows, canvas_length, pad_token_id).to(model.device)
    found = order_nll(model, canvases, num_orders=num_orders, generator=generator, batch_size=batch_size)
    nats = found.importance_weighted
    return _summary(rows, nats, torch.zeros_like(nats), num_bytes)
