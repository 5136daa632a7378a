"""The law of a text's first token, exactly: no sample is needed to know how varied a model's beginnings are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln
from transformers import PreTrainedModel

from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.rows import evaluating
from arche_mdlm.precision_mdlm import refined


@dataclass(frozen=True, eq=False)
class FirstTokenLaw:
    """Probabilities of the first token behind the BOS.

    Args:
        probabilities: (V,) float64, of sum 1.
        num_texts: of how many texts the shares are, for a law that was counted; None for a model's own.
    """

    probabilities: np.ndarray
    num_texts: int | None = None

    @classmethod
    def of_texts(cls, first_ids: Sequence[int], vocab_size: int) -> "FirstTokenLaw":
        """Shares of the first tokens of texts; ValueError for no texts, or an id outside of the vocabulary."""
        ids = np.asarray(first_ids, dtype=np.int64)
        if not len(ids) or ids.min() < 0 or ids.max() >= vocab_size:
            raise ValueError(f"first_ids of shape {ids.shape} must be at least one id from 0 to {vocab_size - 1}")
        return cls(np.bincount(ids, minlength=vocab_size) / len(ids), len(ids))

    @property
    def entropy(self) -> float:
        """In nats. That of counted shares is too low by about (K - 1) / 2N, of K tokens seen in N texts, which is added (Miller 1955)."""
        seen = self.probabilities[self.probabilities > 0]
        plug_in = float(-(seen * np.log(seen)).sum())
        return plug_in if self.num_texts is None else plug_in + (len(seen) - 1) / (2 * self.num_texts)

    def expected_distinct(self, number: int) -> float:
        """Expected number of different first tokens among `number` texts: the sum over v of 1 - (1 - p_v)^number.

        Of counted shares, for at most `num_texts`: the mean over draws without replacement, which is not biased.
        """
        if number < 1:
            raise ValueError(f"number={number} must be at least 1")
        if self.num_texts is None or number > self.num_texts:
            below_one = np.minimum(self.probabilities, 1 - 1e-16)
            return float(-np.expm1(number * np.log1p(-below_one)).sum())
        size = self.num_texts
        left = size - np.rint(self.probabilities * size)  # texts that begin otherwise
        possible = left >= number
        logs = gammaln(left + 1) - gammaln(np.where(possible, left - number, 0) + 1)
        missed = np.where(possible, np.exp(logs - gammaln(size + 1) + gammaln(size - number + 1)), 0.0)
        return float((1 - missed).sum())


def first_token_law(model: PreTrainedModel, *, canvas_length: int | None = None) -> FirstTokenLaw:
    """The law of the first token that a model writes behind a BOS, at temperature 1, from one forward.

    An autoregressive model: its softmax at the BOS, without the tokens that its generation config suppresses. A masked
    diffusion model: its denoiser's at the first position of a canvas of masks, at time 1. That is the law of what is written
    one token at a time from left to right; an ancestral sampler uncovers that position later as a rule, and draws it given
    others, so its law is this one only as far as the denoiser is the posterior of one distribution.

    Args:
        model (`PreTrainedModel`): the model.
        canvas_length (`int`, *optional*): tokens of a diffusion model's canvas, its BOS counted; default: its context.

    Raises:
        ValueError: for a model that has no such law: uniform noise settles no position before the end, and in random orders
            (Eso-LM) the first position is not written first; for one without a BOS; for a canvas below 2 tokens.

    Example:

    ```python
    >>> from arche_mdlm import MDLMForMaskedDiffusion
    >>> from arche_mdlm.metrics.tokens.first_token import first_token_law
    >>> model = MDLMForMaskedDiffusion.from_pretrained("checkpoints/mdlm-tinystories-mini")
    >>> law = first_token_law(model)
    >>> bool(0.5 < law.entropy < 2), 5 < law.expected_distinct(200) < 30
    (True, True)

    ```
    """
    config: Any = model.config
    if config.bos_token_id is None:
        raise ValueError("the model's config has bos_token_id=None: the first token of a text is unknown")
    diffuses = hasattr(model, "subs_logits")
    if diffuses:
        _check_order(model)
    with evaluating(model):
        logits = _denoised(model, canvas_length) if diffuses else _next(model)
        logits = refined(logits)
        return FirstTokenLaw((logits - logits.logsumexp(-1)).exp().double().cpu().numpy())


def _check_order(model: Any) -> None:
    family = family_of(model)
    if not family.corruption.has_order:
        raise ValueError(
            f"the model has {family.corruption.name} noise, where every token can change until the end: no single forward gives the distribution of "
            "the first token"
        )
    if family.order.has_ranks:
        raise ValueError(
            f"with diffusion={model.config.diffusion!r} the order of generation is random: the first position is not generated first"
        )


def _next(model: Any) -> torch.Tensor:
    """(V,) logits behind a BOS."""
    ids = torch.full((1, 1), model.config.bos_token_id, device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].float()
    suppressed = getattr(model.generation_config, "suppress_tokens", None)
    if suppressed:
        logits[torch.tensor(suppressed, device=logits.device)] = -torch.inf
    return logits


def _denoised(model: Any, canvas_length: int | None) -> torch.Tensor:
    """(V,) logits at the first position of a canvas of masks behind a BOS."""
    config = model.config
    length = config.max_position_embeddings if canvas_length is None else canvas_length
    if length < 2:
        raise ValueError(f"canvas_length={length} must be at least 2, including BOS")
    canvas = torch.full((1, length), config.mask_token_id, device=model.device)
    canvas[0, 0] = config.bos_token_id
    where = torch.zeros(1, length, dtype=torch.bool, device=model.device)
    where[0, 1] = True
    extra = {} if config.time_conditioning == "none" else {"timesteps": torch.ones(1, device=model.device)}
    states = model.model(input_ids=canvas, attention_mask=None, positions=where, **extra).last_hidden_state
    logits = model.subs_logits(states)[0]
    return logits if logits.dtype == torch.float64 else logits.float()
