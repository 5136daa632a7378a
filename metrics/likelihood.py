"""Comparable likelihoods: exact NLL of an AR model, NELBO of a masked diffusion model, in nats."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.batch_sizes import AUTO, BatchSize, logit_positions
from arche_mdlm.offset_mdlm import check_predictable
from arche_mdlm.order_mdlm import ANTITHETIC, Draws, beside_clean
from arche_mdlm.sight_mdlm import real_positions


class Likelihood(NamedTuple):
    """Of B rows, BOS not scored."""

    nats: torch.Tensor  # (B,) float64
    standard_error: torch.Tensor  # (B,) float64, of the Monte Carlo estimate


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the time of a with block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def nelbo(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    given: torch.Tensor | None = None,
    num_samples: int = 16,
    antithetic: str = "counts",
    generator: torch.Generator | None = None,
    batch_size: int | str | BatchSize = AUTO,
) -> Likelihood:
    """Monte Carlo estimate of each row's negative evidence lower bound, an upper bound on its NLL.

    k of the row's L positions (BOS aside) are corrupted, k stratified across the draws. Masked noise: k in 1..L, cross-entropies
    weighted by L / k (Nie et al. 2025, arXiv 2502.09992, eq. 6). Uniform noise: k in 0..L, the level t drawn from Beta(k, L - k + 1),
    losses weighted by (L + 1) t / k, the same identity; none is cut off at small t. Blocks: in each block. Eso-LM: a draw is two
    forwards, one of each pass; k of the first has the probabilities P(Bin(L, alpha_0) > L - k) / (L alpha_0), weights are
    L alpha_0 / k; the second counts what is masked at t = 0.

    Args:
        model (`MDLMForMaskedDiffusion`): the model.
        input_ids (`torch.LongTensor`, (B, L)): clean texts.
        attention_mask (`torch.Tensor`, (B, L), *optional*): 0 at padding, on either side.
        given (`torch.Tensor`, (B, L) bool, *optional*): True at tokens that are given besides the BOS, such as a prompt: the bound is
            that of the rest, given them.
        num_samples (`int`, defaults to 16): forwards a row, at least 2.
        antithetic (`str`, defaults to `"counts"`): how the draws hang together; each choice is unbiased, and pairs are
            averaged before the error is. `"none"`: by the strata only. `"counts"`: in pairs of k and L + 1 - k masks, which
            are drawn afresh. `"complement"`: in the same pairs, and of one order of the positions the first k are masked,
            then the last L + 1 - k: all that the first left, and one more. It needs an even num_samples of at least 4.
            Which is best depends on the language (tests/oracles, exact posteriors, 4 and 16 draws): against "none" the
            variance with "counts" is 0.46 to 1 times as large; "complement" has 0.76 to 1.25 times that of "counts"
            (0.76 to 0.79 with a hidden Markov chain, 1.06 to 1.25 with Markov chains), and on the shipped MDLM 0.84
            (8 stories, 24 repeats of 4 draws), within that measurement's own error of 1.
        generator (`torch.Generator`, *optional*): one seed is drawn from it for each row, so a row's estimate does not
            depend on its neighbours.
        batch_size (`int`, `"auto"` or `BatchSize`, defaults to `"auto"`): canvases a forward; `"auto"`: as the memory
            allows. It changes memory and speed only. The logits of a batch never exist at once.

    Returns:
        `Likelihood`: nats and standard errors, each (B,), float64. Draws are stratified, so the error is rather too large.

    Raises:
        ValueError: for num_samples below 2 or not fit for `antithetic`, an unknown `antithetic`, a batch_size below 1,
            shapes that do not fit, or a row without a token to score or with the mask token, and with `prediction_offset` 1 for
            a row that does not begin with a BOS.

    Example:

    ```python
    >>> import torch
    >>> from transformers import AutoTokenizer
    >>> from arche_mdlm import MDLMForMaskedDiffusion
    >>> from arche_mdlm.metrics.likelihood import nelbo
    >>> folder = "checkpoints/mdlm-tinystories-mini"
    >>> tokenizer, model = AutoTokenizer.from_pretrained(folder), MDLMForMaskedDiffusion.from_pretrained(folder)
    >>> texts = ["Once upon a time there was a dog.", "Dog a was there time a upon once."]
    >>> batch = tokenizer(texts, return_tensors="pt", padding=True)
    >>> bound = nelbo(model, **batch, num_samples=8, generator=torch.Generator().manual_seed(0))
    >>> bool(bound.nats[0] < bound.nats[1])
    True

    ```
    """
    seeds = torch.randint(0, 2**62, (len(input_ids),), generator=generator).tolist()
    return nelbo_of_seeds(model, input_ids, attention_mask, seeds, num_samples, antithetic, batch_size, given)


def nelbo_of_seeds(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    seeds: list[int],
    num_samples: int,
    antithetic: str,
    batch_size: int | str | BatchSize,
    given: torch.Tensor | None = None,
) -> Likelihood:
    """`nelbo` of rows whose draws have these seeds."""
    _check_draws(num_samples, antithetic)
    attention_mask = _checked_clean(model, input_ids, attention_mask, batch_size)
    scored = _scored(input_ids, attention_mask, model.config, given)
    draw = partial(family_of(model).bound_draws, num_samples=num_samples, antithetic=antithetic)
    draws = draws_of_rows(draw, input_ids, scored, attention_mask, seeds)
    estimates = draw_nats(model, input_ids, attention_mask, draws, num_samples, batch_size)
    return Likelihood(estimates.mean(1), _standard_error(estimates, paired=antithetic != "none"))


def draws_of_rows(
    draw: Callable[..., Draws],
    input_ids: torch.Tensor,
    scored: torch.Tensor,
    attention_mask: torch.Tensor,
    seeds: list[int],
) -> list[Draws]:
    """Of each row (L,) of (B, L), `draw(tokens, scored, attended, generator=...)`, made on the CPU from the row's own seed."""
    rows = zip(input_ids.cpu(), scored.cpu(), attention_mask.bool().cpu(), seeds, strict=True)
    return [draw(*row, generator=torch.Generator().manual_seed(seed)) for *row, seed in rows]


def draw_nats(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    draws: list[Draws],
    num_samples: int,
    batch_size: int | str | BatchSize,
) -> torch.Tensor:
    """(B, S) float64, the weighted losses of the S draws of each row (B, L)."""
    joined: list[Any] = [
        None if parts[0] is None else torch.cat(parts).to(input_ids.device) for parts in zip(*draws, strict=True)
    ]
    drawn = Draws(*joined)
    counts = torch.tensor([len(part.noisy) for part in draws], device=input_ids.device)
    rows = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(counts)
    estimates = torch.empty(len(rows), dtype=torch.float64)
    width = input_ids.shape[1] * family_of(model).order.copies if drawn.sight is None else drawn.sight.shape[-1]
    sizes = BatchSize.of(batch_size, model, width, all_logits=not gives_token_nll(model))

    def score(part: range) -> torch.Tensor:
        where = slice(part.start, part.stop)
        chosen: list[Any] = [None if values is None else values[where] for values in drawn]
        part_of_draws = Draws(*chosen)
        return _nats(model, input_ids[rows[where]], attention_mask[rows[where]], part_of_draws).cpu()

    with evaluating(model):
        for part, nats in sizes.run(range(len(rows)), score):
            estimates[part.start : part.stop] = nats
    if drawn.weights.dim() == 1:
        estimates = estimates * drawn.weights.cpu()
    if drawn.numbers is None:
        return estimates.view(len(input_ids), num_samples)
    summed = torch.zeros(len(input_ids) * num_samples, dtype=torch.float64)
    summed.index_add_(0, (rows * num_samples + drawn.numbers).cpu(), estimates)
    return summed.view(len(input_ids), num_samples)


def _check_draws(num_samples: int, antithetic: str) -> None:
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples} must be at least 2: a standard error needs two draws")
    if antithetic not in ANTITHETIC:
        raise ValueError(f"antithetic={antithetic!r} is not one of {', '.join(ANTITHETIC)}")
    if antithetic == "complement" and (num_samples < 4 or num_samples % 2):
        raise ValueError(
            f"num_samples={num_samples} must be even and at least 4 for pairs with antithetic='complement'"
        )


def _checked_mask(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, batch_size: int | str | BatchSize
) -> torch.Tensor:
    """The attention mask (B, L), ones by default; ValueError for wrong shapes or values."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids of shape {tuple(input_ids.shape)} must be (rows, length)")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask of shape {tuple(attention_mask.shape)} must be {tuple(input_ids.shape)}")
    if isinstance(batch_size, int) and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    return attention_mask


def _checked_clean(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    batch_size: int | str | BatchSize,
) -> torch.Tensor:
    """`_checked_mask`, and ValueError for a row that holds the model's mask token."""
    attention_mask = _checked_mask(input_ids, attention_mask, batch_size)
    held = (input_ids == model.config.mask_token_id) & attention_mask.bool()
    if bool(held.any()):
        row = int(held.any(-1).nonzero()[0])
        raise ValueError(f"row {row} of input_ids holds mask_token_id={model.config.mask_token_id}; give clean tokens")
    return attention_mask


def _scored(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, config: PreTrainedConfig, given: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, L) bool: attended positions but a leading BOS and given ones. ValueError for a row that has none, or cannot be predicted."""
    bos_token_id = config.bos_token_id
    attended = attention_mask.bool()
    first = attended & (attended.long().cumsum(-1) == 1)
    scored = attended & ~(first & (input_ids == (-1 if bos_token_id is None else bos_token_id)))
    if given is not None:
        scored = scored & ~_checked_given(given, input_ids)
    if not bool(scored.any(-1).all()):
        row = int((~scored.any(-1)).nonzero()[0])
        raise ValueError(f"row {row} of input_ids has no token to score")
    check_predictable(config, scored, attention_mask)
    return scored


def _checked_given(given: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    if given.shape != input_ids.shape:
        raise ValueError(f"given of shape {tuple(given.shape)} must be {tuple(input_ids.shape)}")
    return given.to(input_ids.device).bool()


def _nats(model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Sum (N,) of each draw's losses, float64, times its weights where they are those of positions."""
    family = family_of(model)
    inputs = family.order.inputs(draws.noisy, input_ids, attention_mask.bool(), draws.sight)
    width = inputs["input_ids"].shape[1]
    if getattr(model.config, "time_conditioning", "none") != "none" or family.corruption.tells_noise:
        times = family.schedule.time_at(draws.rates.float())
        inputs["timesteps"] = beside_clean(times, 0, width) if times.dim() == 2 else times
    if gives_token_nll(model):
        labels = beside_clean(input_ids.masked_fill(~draws.scored, -100), -100, width)
        nats = model(**inputs, labels=labels, skip_logits=True).token_nll.double()
    else:
        logits = model(**inputs, positions=beside_clean(draws.scored, False, width)).logits
        rates = draws.rates[draws.scored] if draws.rates.dim() == 2 else None
        token_loss = family.corruption.token_loss(input_ids[draws.scored], draws.noisy[draws.scored], rates)
        nats = token_loss.plain(logits.float()).double()
    if draws.weights.dim() == 2:
        nats = nats * draws.weights[draws.scored]
    rows = draws.scored.nonzero()[:, 0]
    return torch.zeros(len(input_ids), dtype=torch.float64, device=nats.device).index_add_(0, rows, nats)


def gives_token_nll(model: PreTrainedModel) -> bool:
    """Whether a model scores labels without their logits (`skip_logits`), as ours does with any head."""
    return getattr(model.config, "model_type", None) == "mdlm"


def _standard_error(estimates: torch.Tensor, paired: bool) -> torch.Tensor:
    """Of the mean of (B, S) draws, antithetic pairs counted as one draw where there are at least two of them."""
    num_samples = estimates.shape[1]
    if paired and num_samples >= 4 and num_samples % 2 == 0:
        estimates = estimates.view(len(estimates), num_samples // 2, 2).mean(-1)
    return estimates.std(1) / math.sqrt(estimates.shape[1])


def nll(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    given: torch.Tensor | None = None,
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
        given (`torch.Tensor`, (B, L) bool, *optional*): True at tokens that are given and not scored, such as a prompt.
        batch_size (`int`, `"auto"` or `BatchSize`, defaults to `"auto"`): rows a forward; `"auto"`: as the memory allows.

    Returns:
        `torch.Tensor`, (B,), float64: nats a row.

    Raises:
        ValueError: for a row without a token to score, shapes that do not fit, or a batch_size below 1.

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
    attention_mask = _checked_mask(input_ids, attention_mask, batch_size)
    if bool((attention_mask.sum(-1) < 2).any()):
        raise ValueError("input_ids has a row of fewer than two tokens: nothing to score behind the first")
    forbidden = _forbidden_tokens(model)
    position_ids = real_positions(attention_mask)
    scored = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    if given is not None:
        scored = scored & ~_checked_given(given, input_ids)[:, 1:]
    result = torch.empty(len(input_ids), dtype=torch.float64)
    with evaluating(model):
        in_chunks = head_is_all(model, input_ids[:1], attention_mask[:1], position_ids[:1])
        token_nats = _token_nats_in_chunks if in_chunks else _token_nats
        sizes = BatchSize.of(batch_size, model, input_ids.shape[1], all_logits=not in_chunks)

        def score(part: range) -> torch.Tensor:
            where = slice(part.start, part.stop)
            inputs = _ar_inputs(input_ids[where], attention_mask[where], position_ids[where])
            nats = torch.zeros(scored[where].shape, dtype=torch.float64, device=input_ids.device)
            nats[scored[where]] = token_nats(model, inputs, scored[where], forbidden)
            return nats.sum(-1).cpu()

        for part, nats in sizes.run(range(len(input_ids)), score):
            result[part.start : part.stop] = nats
    return result


def _ar_inputs(input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor) -> dict[str, Any]:
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "use_cache": False,
    }


def _token_nats(
    model: PreTrainedModel, inputs: dict[str, Any], scored: torch.Tensor, forbidden: list[int]
) -> torch.Tensor:
    """Cross-entropies (N,) float64 of the next tokens at the N True positions of `scored` (B, L - 1), of all logits."""
    return _cross_entropies(model(**inputs).logits[:, :-1][scored], inputs["input_ids"][:, 1:][scored], forbidden)


def _token_nats_in_chunks(
    model: PreTrainedModel, inputs: dict[str, Any], scored: torch.Tensor, forbidden: list[int]
) -> torch.Tensor:
    """As `_token_nats`; the head runs on a few of the positions at a time."""
    states = model.base_model(**inputs)[0][:, :-1][scored]
    targets = inputs["input_ids"][:, 1:][scored]
    size = logit_positions(states.device, model.config.get_text_config().vocab_size)
    head = model.get_output_embeddings()
    parts = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([_cross_entropies(head(part), wanted, forbidden) for part, wanted in parts])


def _cross_entropies(logits: torch.Tensor, targets: torch.Tensor, forbidden: list[int]) -> torch.Tensor:
    """(N,) float64 of logits (N, V), forbidden tokens having probability zero."""
    logits = logits.float()
    if forbidden:
        logits[..., forbidden] = -torch.inf
    return F.cross_entropy(logits, targets, reduction="none").double()


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
