"""Likelihoods of many completions, each given its prompt: sorted by length, equal ones once, many in a forward."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from arche_mdlm.evaluation.greedy import writes_greedily
from arche_mdlm.metrics.ar_likelihood import nll_and_greedy
from arche_mdlm.metrics.batch_sizes import AUTO, BatchSize
from arche_mdlm.metrics.corpus_likelihood import padded
from arche_mdlm.metrics.likelihood import check_draws, gives_token_nll, nelbo_of_seeds
from arche_mdlm.metrics.policy_likelihood import POLICIES, policy_nll
from arche_mdlm.metrics.rows import first_positions

LIKELIHOODS = ("nelbo", *POLICIES)
_FORWARDS = 4  # whose draws are made at once

Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt, a BOS included, and of its completion


class PairLikelihoods(NamedTuple):
    """Of N pairs."""

    nats: torch.Tensor  # (N,) float64, -log p(completion | prompt), or a bound on it
    standard_error: torch.Tensor  # (N,) float64, of the Monte Carlo estimate; 0 where the likelihood is exact
    greedy: torch.Tensor  # (N,) bool, whether greedy decoding writes the completion; False where it was not asked for


def pair_likelihoods(
    model: Any,
    pairs: Sequence[Pair],
    *,
    likelihood: str = "nelbo",
    num_samples: int = 16,
    antithetic: str = "counts",
    seed: int = 0,
    greedy: Sequence[bool] | None = None,
    batch_size: int | str | BatchSize = AUTO,
    progress: bool = False,
) -> PairLikelihoods:
    """-log p(completion | prompt) in nats: exact for an AR model, a NELBO or the exact likelihood of a policy for a diffusion model.

    The canvas of a diffusion model ends with the completion. The draws of a pair depend on its tokens and `seed` alone, not on the other
    pairs, their order or `batch_size`.

    Args:
        model: an MDLM of any family, or any causal language model of transformers.
        pairs: token ids of prompts and completions; neither may be empty.
        likelihood (`str`, defaults to `"nelbo"`): of a diffusion model; or one of the policies of `policy_nll`, which is exact and costs a
            forward a token. An AR model has its exact NLL with each.
        num_samples, antithetic: as in `nelbo`.
        greedy (sequence of bool, *optional*): of which pairs to find out whether greedy decoding writes them (`writes_greedily`; of an AR
            model it costs nothing and is found of all).
        batch_size: canvases a forward.
        progress (`bool`, defaults to False): show a progress bar.

    Raises:
        ValueError: for no pairs, an empty prompt or completion, a pair longer than the model's context, an unknown likelihood, and as
            `nelbo` or `policy_nll`.
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood={likelihood!r} is not one of {', '.join(LIKELIHOODS)}")
    if likelihood == "nelbo" and gives_token_nll(model):
        check_draws(num_samples, antithetic)
    check_pairs(pairs, model.config.max_position_embeddings)
    wanted = [False] * len(pairs) if greedy is None else list(greedy)
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = {}  # each once, and whether its flag is asked for
    keys = [(tuple(prompt), tuple(completion)) for prompt, completion in pairs]
    for key, flag in zip(keys, wanted, strict=True):
        found[key] = found.get(key, False) or flag
    order = sorted(found, key=lambda key: len(key[0]) + len(key[1]), reverse=True)
    work = _Work(model, likelihood, num_samples, antithetic, seed, batch_size, longest=sum(map(len, order[0])))
    rows: dict[Pair, torch.Tensor] = {}
    with tqdm(total=len(order), desc="scoring", unit="pair", disable=not progress) as bar:
        for start in range(0, len(order), work.step):
            part = order[start : start + work.step]
            rows |= dict(zip(part, work.score(part, [found[key] for key in part]).unbind(), strict=True))
            bar.update(len(part))
    nats, errors, flags = torch.stack([rows[key] for key in keys]).unbind(-1)
    return PairLikelihoods(nats, errors, flags.bool())


def check_pairs(pairs: Sequence[Pair], context: int) -> None:
    """ValueError for no pairs, an empty prompt or completion, or a pair that does not fit the context."""
    if len(pairs) == 0:
        raise ValueError("pairs is empty; at least one is needed")
    for number, (prompt, completion) in enumerate(pairs):
        if len(prompt) == 0:
            raise ValueError(f"pair {number} has an empty prompt; it needs at least one token, such as a BOS")
        if len(completion) == 0:
            raise ValueError(f"pair {number} has an empty completion; it needs at least one token")
        if len(prompt) + len(completion) > context:
            raise ValueError(
                f"pair {number} has {len(prompt)} + {len(completion)} tokens, more than the model's context of {context}: truncate its "
                "prompt on the left"
            )


def seed_of(seed: int, *parts: Sequence[int]) -> int:
    """The seed of the draws of token ids: the same wherever and whenever they are scored."""
    text = f"{seed}:{[list(map(int, part)) for part in parts]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


class _Work:
    """Scores batches of pairs; `step` of them at once."""

    def __init__(
        self, model: Any, likelihood: str, num_samples: int, antithetic: str, seed: int,
        batch_size: int | str | BatchSize, longest: int,
    ) -> None:  # fmt: skip
        self.model, self.likelihood, self.num_samples = model, likelihood, num_samples
        self.antithetic, self.seed = antithetic, seed
        self.diffuses = gives_token_nll(model)
        self.sizes = BatchSize.of(batch_size, model, 2 * longest if self.diffuses else longest)
        draws = num_samples if self.diffuses and likelihood == "nelbo" else 1
        self.step = max(1, _FORWARDS * self.sizes.size // draws)

    def score(self, part: Sequence[Pair], greedy: Sequence[bool]) -> torch.Tensor:
        """(N, 3) float64: nats, standard error, whether greedy decoding writes the completion."""
        pad = self.model.config.pad_token_id
        ids, mask = padded([[*prompt, *completion] for prompt, completion in part], 0 if pad is None else pad)
        given = first_positions([len(prompt) for prompt, _ in part], ids.shape[1])
        ids, mask, given = (values.to(self.model.device) for values in (ids, mask, given))
        errors, flags = torch.zeros(2, len(part), dtype=torch.float64)
        if not self.diffuses:
            nats, hits = nll_and_greedy(self.model, ids, mask, condition_mask=given, batch_size=self.sizes)
            return torch.stack([nats, errors, hits.double()], dim=-1)
        seeds = [seed_of(self.seed, *pair) for pair in part]
        if self.likelihood == "nelbo":
            nats, errors = nelbo_of_seeds(
                self.model, ids, mask, seeds, self.num_samples, self.antithetic, self.sizes, condition_mask=given
            )
        else:
            nats = policy_nll(
                self.model, ids, mask, condition_mask=given, policy=self.likelihood, batch_size=self.sizes.size
            ).nats
        asked = torch.tensor(greedy).nonzero()[:, 0]
        if len(asked):
            flags[asked] = writes_greedily(
                self.model, ids[asked], mask[asked], given[asked], seeds=[seeds[i] for i in asked.tolist()],
                batch_size=self.sizes.size,
            ).double()  # fmt: skip
        return torch.stack([nats, errors, flags], dim=-1)
