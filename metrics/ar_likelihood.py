"""Exact likelihood of a causal language model, in nats."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from arche_mdlm.metrics.batch_sizes import AUTO, BatchSize, logit_positions
from arche_mdlm.metrics.rows import check_given_first, checked_mask, evaluating, without_given
from arche_mdlm.precision_mdlm import summable
from arche_mdlm.sight_mdlm import real_positions


def nll(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    condition_mask: torch.Tensor | None = None,
    batch_size: int | str | BatchSize = AUTO,
) -> torch.Tensor:
    """Exact negative log-likelihood (B,) in nats, float64, of rows (B, L) under an AR model.

    BOS is context, EOS is scored, padding on either side is excluded. A mask token in the vocabulary (a matched twin
    has one, in its config or among the suppressed tokens of its generation config) gets probability zero, as in the
    diffusion arm: both are distributions over the same tokens. For a trained model that changes nothing measurable.

    The head goes through a chunk of positions at a time, so that the logits of a batch never exist at once; for a model whose
    logits are more than its head's (a softcap, a scale), they do.

    Args:
        model (`PreTrainedModel`): any causal language model of transformers.
        input_ids (`torch.LongTensor`, (B, L)): clean texts.
        attention_mask (`torch.Tensor`, (B, L), *optional*): 0 at padding, on either side.
        condition_mask (`torch.BoolTensor`, (B, L), *optional*): True at tokens that are given, a prompt that stands before all others: the
            result is -log p(the other tokens | the given ones).
        batch_size (`int`, `"auto"` or `BatchSize`, defaults to `"auto"`): rows a forward; `"auto"`: as the memory allows.

    Returns:
        `torch.Tensor`, (B,), float64: nats a row.

    Raises:
        ValueError: for a row without a token to score, shapes that do not fit, a batch_size below 1, or a condition_mask that is not bool,
            gives all of a row, or gives tokens behind others, which the model does not condition on.

    Example:

    ```python
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> from arche_mdlm.metrics.likelihood import nll
    >>> folder = "checkpoints/ar-tinystories-mini"
    >>> tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    >>> texts = ["Once upon a time there was a dog.", "Dog a was there time a upon once."]
    >>> nats = nll(model, **tokenizer(texts, return_tensors="pt", padding=True))
    >>> bool(nats[0] < nats[1])
    True

    ```
    """
    return _row_sums(model, input_ids, attention_mask, condition_mask, batch_size, _cross_entropies)[:, 0]


class GreedyLikelihood(NamedTuple):
    """Of B rows, the first token not scored."""

    nats: torch.Tensor  # (B,) float64
    greedy: torch.Tensor  # (B,) bool, whether every scored token is the most probable one behind those before it


def nll_and_greedy(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    condition_mask: torch.Tensor | None = None,
    batch_size: int | str | BatchSize = AUTO,
) -> GreedyLikelihood:
    """`nll`, and whether greedy decoding writes the scored tokens, from the same forwards. Arguments and errors as `nll`."""
    sums = _row_sums(model, input_ids, attention_mask, condition_mask, batch_size, _nats_and_misses)
    return GreedyLikelihood(sums[:, 0], sums[:, 1] == 0)


def _row_sums(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    condition_mask: torch.Tensor | None,
    batch_size: int | str | BatchSize,
    read: "_Read",
) -> torch.Tensor:
    """(B, K) float64, what `read` says of each scored token, summed over the row."""
    attention_mask = checked_mask(input_ids, attention_mask, batch_size)
    if bool((attention_mask.sum(-1) < 2).any()):
        raise ValueError("input_ids has a row with fewer than two tokens: the first token is not scored")
    forbidden = _forbidden_tokens(model)
    position_ids = real_positions(attention_mask)
    scored = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    if condition_mask is not None:
        scored = _behind_given(scored, attention_mask.bool(), condition_mask)
    results = []
    with evaluating(model):
        in_chunks = head_is_all(model, input_ids[:1], attention_mask[:1], position_ids[:1])
        of_tokens = _of_tokens_in_chunks if in_chunks else _of_tokens
        sizes = BatchSize.of(batch_size, model, input_ids.shape[1], all_logits=not in_chunks)

        def score(part: range) -> torch.Tensor:
            where = slice(part.start, part.stop)
            inputs = _ar_inputs(input_ids[where], attention_mask[where], position_ids[where])
            found = of_tokens(model, inputs, scored[where], forbidden, read)
            values = torch.zeros((*scored[where].shape, found.shape[-1]), dtype=torch.float64, device=found.device)
            values[scored[where].to(found.device)] = found
            return values.sum(1).cpu()

        for _, sums in sizes.run(range(len(input_ids)), score):
            results.append(sums)
    return torch.cat(results)


def _behind_given(scored: torch.Tensor, attended: torch.Tensor, condition_mask: torch.Tensor) -> torch.Tensor:
    """`scored` (B, L - 1) without the given tokens of `condition_mask` (B, L), which must stand before the others."""
    first = attended & (attended.long().cumsum(-1) == 1)  # is context in any case
    scored = without_given(F.pad(scored, (1, 0), value=False), condition_mask)
    columns = torch.arange(scored.shape[1], device=scored.device).expand(scored.shape)
    why = "an autoregressive model sees what stands before a token only"
    check_given_first(scored, attended & ~scored & ~first, columns, why)
    return scored[:, 1:]


def _ar_inputs(input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor) -> dict[str, Any]:
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "use_cache": False,
    }


# Of logits (N, V), which it may change, targets (N,) and the ids of probability zero: (N, K) float64.
_Read = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]


def _of_tokens(
    model: PreTrainedModel, inputs: dict[str, Any], scored: torch.Tensor, forbidden: list[int], read: _Read
) -> torch.Tensor:
    """What is read (N, K) of the next tokens at the N True positions of `scored` (B, L - 1), of all logits."""
    return read(model(**inputs).logits[:, :-1][scored], inputs["input_ids"][:, 1:][scored], forbidden)


def _of_tokens_in_chunks(
    model: PreTrainedModel, inputs: dict[str, Any], scored: torch.Tensor, forbidden: list[int], read: _Read
) -> torch.Tensor:
    """As `_of_tokens`; the head runs on a few of the positions at a time."""
    states = model.base_model(**inputs)[0][:, :-1][scored]
    targets = inputs["input_ids"][:, 1:][scored]
    size = logit_positions(states.device, model.config.get_text_config().vocab_size)
    head = model.get_output_embeddings()
    parts = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([read(head(part), wanted, forbidden) for part, wanted in parts])


def _cross_entropies(logits: torch.Tensor, targets: torch.Tensor, forbidden: list[int]) -> torch.Tensor:
    """(N, 1) float64 of logits (N, V), forbidden tokens having probability zero."""
    return summable(F.cross_entropy(_allowed(logits, forbidden), targets, reduction="none"))[:, None]


def _nats_and_misses(logits: torch.Tensor, targets: torch.Tensor, forbidden: list[int]) -> torch.Tensor:
    """(N, 2) float64: the cross-entropies, and 1 where another token is the most probable one."""
    logits = _allowed(logits, forbidden)
    nats = summable(F.cross_entropy(logits, targets, reduction="none"))
    return torch.stack([nats, (logits.argmax(-1) != targets).to(nats)], dim=-1)


def _allowed(logits: torch.Tensor, forbidden: list[int]) -> torch.Tensor:
    logits = logits.float()
    if forbidden:
        logits[..., forbidden] = -torch.inf
    return logits


_PROBE_TOKENS = 8


def head_is_all(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor
) -> bool:
    """Whether an AR model's logits equal its head applied to the trunk's states, tested on the start of a row (1, L).

    Families differ: Gemma caps its logits, Cohere and Granite scale them, some have more between trunk and head. None of that
    can be read off the head.
    """
    if not isinstance(model, PreTrainedModel) or model.base_model is model or model.get_output_embeddings() is None:
        return False
    first = int(attention_mask[0].argmax())  # padding on the left
    where = slice(first, first + _PROBE_TOKENS)
    inputs = _ar_inputs(input_ids[:, where], attention_mask[:, where], position_ids[:, where])
    expected = model(**inputs).logits.float()
    try:
        found = model.get_output_embeddings()(model.base_model(**inputs)[0]).float()
    except TypeError:  # the trunk takes other arguments than the model
        return False
    exact = model.dtype in (torch.float32, torch.float64)
    tolerance = (1e-5 if exact else 2e-2) * float(expected.abs().max())  # compiled, it rounds differently
    return found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance


def _forbidden_tokens(model: PreTrainedModel) -> list[int]:
    """Ids that an AR model may not write: its mask token, and the tokens suppressed by its generation config."""
    suppressed = getattr(getattr(model, "generation_config", None), "suppress_tokens", None) or []
    mask = getattr(model.config, "mask_token_id", None)
    known = [] if mask is None or not 0 <= mask < model.config.vocab_size else [mask]
    return sorted({*suppressed, *known})
