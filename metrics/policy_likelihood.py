"""Exact likelihood of a masked diffusion model that decodes one token at a time in its own order, in nats."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood, _canvases, _check_rows, _summary
from arche_mdlm.metrics.rows import checked_clean, evaluating, scored_positions
from arche_mdlm.precision_mdlm import finest, refined
from arche_mdlm.samplers_mdlm import top_k_per_row
from arche_mdlm.schedule_mdlm import get_schedule

POLICIES = ("left_to_right", "confidence", "margin", "entropy")

_LOGIT_BYTES = {"cpu": 2**25}  # of float32 logits that exist at once
_LARGE_LOGIT_BYTES = 2**29


class PolicyLikelihood(NamedTuple):
    """Of B rows of L positions, BOS not scored."""

    nats: torch.Tensor  # (B,) float64
    token_nats: torch.Tensor  # (B, L) float64, 0 at unscored positions
    order: torch.Tensor  # (B, L) int64: the step that commits each position, from 0; -1 where none does


def policy_nll(
    model: MDLMForMaskedDiffusion,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    condition_mask: torch.Tensor | None = None,
    policy: str = "left_to_right",
    block_length: int | None = None,
    stop_at_eos: bool = False,
    batch_size: int = 16,
    progress: bool = False,
) -> PolicyLikelihood:
    """Exact negative log-likelihood of each row under a deterministic decoding policy (arXiv 2603.01367).

    From a canvas of masks one position a step is committed: the policy names it by the model's distributions on that
    canvas, without a look at the row's own token there, and that token's -log probability is counted. So the
    probabilities of all rows of one length sum to 1: it is the law of what is drawn one token at a time in that order, at
    temperature 1. Neither that nor the NELBO is a bound on the other: with another order it is another model. Where the
    model is the exact posterior of a language, every policy gives the language's own.

    A forward of the canvas for each position and row; the last layer and the head run only at the positions that the
    policy compares, one for left_to_right.

    Args:
        model (`MDLMForMaskedDiffusion`): the model.
        input_ids (`torch.LongTensor`, (B, L)): clean texts.
        attention_mask (`torch.Tensor`, (B, L), *optional*): 0 at padding, on either side. Pads that are attended are part of
            the canvas: committed and counted, as in `nelbo`.
        condition_mask (`torch.BoolTensor`, (B, L), *optional*): True at tokens that are given: they are on the canvas from the start and
            not counted, so the result is -log p(the other tokens | the given ones). As in `nelbo` with blocks of the model.
        policy (`str`, defaults to `"left_to_right"`): which masked position is next; ties go to the left. `"confidence"`:
            that whose most probable token is the most probable (the sampler of this name ranks by the drawn token instead,
            so its draws have another law); `"margin"`: the widest gap between the two most probable tokens; `"entropy"`:
            the lowest. The samplers margin and entropy, with a step a mask, draw from exactly this law.
        block_length (`int`, *optional*): positions in a block; blocks are filled from left to right, in the policy's order
            in each. Default: one block.
        stop_at_eos (`bool`, defaults to False): end a row as soon as its first EOS is there and nothing before it is masked,
            as `generate` does: what is then still masked behind it costs neither nats nor forwards. Left to right the result
            is the exact -log p(text up to EOS). In another order it is that of the text and of the tail's tokens committed
            before: an upper bound on the text's own.
        batch_size (`int`, defaults to 16): canvases a forward. Changes results by float rounding only; where two positions
            are sure to within that rounding, their order may change, and with it the result.
        progress (`bool`, defaults to False): show a progress bar.

    Returns:
        `PolicyLikelihood`: nats a row and a token, and the order.

    Raises:
        ValueError: for a model without an order of writing (uniform noise), an unknown policy, a block_length or batch_size below 1,
            stop_at_eos without an EOS, shapes that do not fit, a condition_mask that is not bool or gives all of a row, or a row without a token to score or with the mask token, and with
            `prediction_offset` 1 for a row that does not begin with a BOS or a given token.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from arche_mdlm import MDLMForMaskedDiffusion
    >>> from arche_mdlm.metrics.policy_likelihood import policy_nll
    >>> folder = "checkpoints/mdlm-tinystories-mini"
    >>> tokenizer, model = AutoTokenizer.from_pretrained(folder), MDLMForMaskedDiffusion.from_pretrained(folder)
    >>> batch = tokenizer(["Tom ran."], return_tensors="pt")
    >>> found = policy_nll(model, **batch, policy="entropy")
    >>> bool(found.nats[0] == found.token_nats.sum()), found.order.shape == batch["input_ids"].shape
    (True, True)

    ```
    """
    _check_policy(model, policy, block_length, stop_at_eos)
    attention_mask = checked_clean(model, input_ids, attention_mask, batch_size)
    scored = scored_positions(input_ids, attention_mask, model.config, condition_mask)
    token_nats = torch.zeros(input_ids.shape, dtype=torch.float64)
    order = torch.full(input_ids.shape, -1)
    with evaluating(model), tqdm(total=int(scored.sum()), desc=policy, unit="token", disable=not progress) as bar:
        for start in range(0, len(input_ids), batch_size):
            part = slice(start, start + batch_size)
            decoding = _Decoding(model, input_ids[part], attention_mask[part], scored[part], block_length, stop_at_eos)
            while len(rows := decoding.open_rows()):
                decoding.step(rows, policy)
                bar.update(len(rows))
            token_nats[part], order[part] = decoding.token_nats.cpu(), decoding.order.cpu()
    return PolicyLikelihood(token_nats.sum(-1), token_nats, order)


def corpus_policy_nll(
    model: MDLMForMaskedDiffusion,
    rows: Sequence[Sequence[int]],
    *,
    canvas_length: int,
    pad_token_id: int,
    policy: str = "left_to_right",
    block_length: int | None = None,
    stop_at_eos: bool = False,
    num_bytes: Sequence[int] | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> CorpusLikelihood:
    """`policy_nll` of stories (BOS ... EOS token ids), each on a canvas whose padded tail is attended.

    The tail's nats are counted, but for those that `stop_at_eos` leaves out, and only real tokens divide them. Costs a
    forward a position and story. ValueError as `corpus_nelbo` and `policy_nll`.
    """
    _check_rows(rows, num_bytes)
    canvases = _canvases(rows, canvas_length, pad_token_id)
    by_length = torch.tensor([len(row) for row in rows]).argsort(stable=True)  # rows that end together, together
    result = policy_nll(
        model, canvases[by_length].to(model.device), policy=policy, block_length=block_length, stop_at_eos=stop_at_eos,
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    nats = torch.empty_like(result.nats)
    nats[by_length] = result.nats
    return _summary(rows, nats, torch.zeros_like(nats), num_bytes)


def _check_policy(model: MDLMForMaskedDiffusion, policy: str, block_length: int | None, stop_at_eos: bool) -> None:
    corruption = family_of(model).corruption
    if not corruption.has_order:
        raise ValueError(
            f"the model has {corruption.name} noise, where every token can change until the end: there is no order of generation "
            "and no exact likelihood. Use metrics.likelihood.nelbo, a bound"
        )
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} is not one of {', '.join(POLICIES)}")
    if family_of(model).order.has_ranks:
        raise ValueError(
            f"policy_nll needs a family with attention to the whole canvas, not diffusion={model.config.diffusion!r}: use "
            "metrics.order_likelihood.order_nll"
        )
    if block_length is not None and block_length < 1:
        raise ValueError(f"block_length={block_length} must be at least 1, or None for a single block")
    if stop_at_eos and model.config.eos_token_id is None:
        raise ValueError("stop_at_eos=True, but the model's config has eos_token_id=None")


class _Decoding:
    """State of B rows (B, L) of known text that a policy uncovers, a position a row and step."""

    def __init__(
        self,
        model: MDLMForMaskedDiffusion,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        scored: torch.Tensor,
        block_length: int | None,
        stop_at_eos: bool,
    ) -> None:
        self.model, self.input_ids, self.attention_mask = model, input_ids, attention_mask
        self.scored, self.masked = scored, scored.clone()
        self.block = torch.zeros_like(input_ids)
        if block_length is not None:
            self.block = (scored.long().cumsum(-1) - 1) // block_length
        self.eos = torch.zeros_like(scored)
        if stop_at_eos:
            self.eos = scored & torch.isin(input_ids, torch.tensor(model.config.eos_token_id, device=input_ids.device))
        self.token_nats = torch.zeros(input_ids.shape, dtype=finest(input_ids.device), device=input_ids.device)
        self.order = torch.full_like(input_ids, -1)
        self.num_steps = 0

    def open_rows(self) -> torch.Tensor:
        """Indices (R,) of the rows that have not ended."""
        ended = (self.eos & (self.masked.long().cumsum(-1) == 0)).any(-1)
        return (self.masked.any(-1) & ~ended).nonzero()[:, 0]

    def step(self, rows: torch.Tensor, policy: str) -> torch.Tensor:
        """Commit one position of each of `rows` (R,); the policy's scores (R,) there, 0 left to right."""
        where = self._candidates(rows, policy)
        nats, scores = self._predict(rows, where, policy)
        ranked = torch.full(where.shape, -torch.inf, dtype=scores.dtype, device=where.device)
        ranked = ranked.masked_scatter(where, scores)
        chosen = where if policy == "left_to_right" else top_k_per_row(ranked, torch.ones_like(rows))
        self.token_nats[rows] += torch.zeros_like(self.token_nats[rows]).masked_scatter(where, nats) * chosen
        self.order[rows] = self.order[rows].masked_fill(chosen, self.num_steps)
        self.masked[rows] &= ~chosen
        self.num_steps += 1
        return ranked[chosen]

    def _candidates(self, rows: torch.Tensor, policy: str) -> torch.Tensor:
        """(R, L) bool: the positions that may be next, exactly one left to right."""
        masked = self.masked[rows]
        if policy == "left_to_right":
            return masked & (masked.long().cumsum(-1) == 1)
        block = self.block[rows]
        current = block.masked_fill(~masked, block.shape[1]).amin(-1, keepdim=True)
        return masked & (block == current)

    def _predict(self, rows: torch.Tensor, where: torch.Tensor, policy: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats of the true tokens and the policy's scores, each (N,) float64, at the N True positions of `where`."""
        states = self._states(rows, where)
        targets = self.input_ids[rows][where]
        size = _LOGIT_BYTES.get(states.device.type, _LARGE_LOGIT_BYTES) // (4 * self.model.config.vocab_size)
        parts = zip(states.split(max(1, size)), targets.split(max(1, size)), strict=True)
        nats, scores = zip(*(_read(self.model.subs_logits(s), t, policy) for s, t in parts), strict=True)
        return torch.cat(nats), torch.cat(scores)

    def _states(self, rows: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, hidden_size) at `where` (R, L) on the canvases as they are."""
        config, masked, attended = self.model.config, self.masked[rows], self.attention_mask[rows]
        extra = {}
        if config.time_conditioning != "none":
            rate = masked.sum(-1) / self.scored[rows].sum(-1)
            extra["timesteps"] = get_schedule(config.noise_schedule).time_at(rate.float())
        return self.model.model(
            input_ids=self.input_ids[rows].masked_fill(masked, config.mask_token_id),
            attention_mask=None if bool(attended.all()) else attended,
            positions=where,
            **extra,
        ).last_hidden_state


def _read(logits: torch.Tensor, targets: torch.Tensor, policy: str) -> tuple[torch.Tensor, torch.Tensor]:
    """-log probability of the targets (n,) and the policy's scores (n,), float64, from logits (n, V)."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(-1, dtype=finest(weights.device))
    nats = total.log() - refined(shifted.gather(-1, targets[:, None])[:, 0])
    if policy == "left_to_right":
        return nats, torch.zeros_like(nats)
    if policy == "confidence":
        return nats, 1 / total  # the largest weight is exp(0)
    if policy == "margin":
        return nats, (1 - refined(weights.topk(2).values[:, 1])) / total
    # Of weights w = exp(x): log(sum w) - sum(w x) / sum(w); clamped, as 0 times -inf is NaN.
    mean = (shifted.clamp_(min=-1e4) * weights).sum(-1, dtype=finest(weights.device)) / total
    return nats, mean - total.log()
