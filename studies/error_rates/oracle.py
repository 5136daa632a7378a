"""The exact posterior of a language in place of a trained denoiser: `generate` and every sampler run as with a model."""

from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion


class Language(Protocol):
    """What the denoiser asks: V tokens, sequences of L, and the posterior (B, L, V) of tokens given the known ones."""

    vocab_size: int
    length: int

    def posterior(self, tokens: torch.Tensor, known: torch.Tensor) -> torch.Tensor: ...


class ExactTrunk(nn.Module):
    """The posterior's logarithm, float64, in place of hidden states."""

    def __init__(self, language: Language, config: MDLMConfig):
        super().__init__()
        self.language, self.config = language, config
        self.nothing = nn.Parameter(torch.zeros(0))  # a module's parameters say where it is

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        canvas, size = input_ids[:, 1:], self.language.vocab_size
        posterior = self.language.posterior(canvas, canvas != self.config.mask_token_id)
        if positions is not None and not bool(positions[:, 0].any()):
            chosen = posterior[positions[:, 1:]]
            logits = chosen.new_full((len(chosen), self.config.vocab_size), -torch.inf, dtype=torch.float64)
            logits[:, :size] = chosen.log()
            return BaseModelOutput(last_hidden_state=logits)
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -torch.inf, dtype=torch.float64)
        logits[:, 1:, :size] = posterior.log()
        logits[:, 0, 0] = 0.0  # BOS is not predicted; this avoids a softmax of -inf alone, which is NaN
        return BaseModelOutput(last_hidden_state=logits if positions is None else logits[positions])


class ExactModel(MDLMForMaskedDiffusion):
    """A masked diffusion model on rows of a BOS and the language's positions, whose predictions are exact.

    Ids: tokens 0..V-1, BOS = V, mask = V + 1, pad = V + 2.
    """

    def __init__(self, language: Language, noise_schedule: str = "linear"):
        size = language.vocab_size
        config = MDLMConfig(
            vocab_size=size + 3,
            mask_token_id=size + 1,
            bos_token_id=size,
            eos_token_id=None,
            pad_token_id=size + 2,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=language.length + 1,
            noise_schedule=noise_schedule,
        )
        super().__init__(config)
        self.eval()
        self.language = language
        self.model, self.lm_head = ExactTrunk(language, config), nn.Identity()
        self.generation_config.bos_token_id, self.generation_config.pad_token_id = size, size + 2

    def subs_logits(self, states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # nothing to write into
        return states

    def bos(self, num_rows: int) -> torch.Tensor:
        """Prompts (num_rows, 1) of a BOS alone."""
        return torch.full((num_rows, 1), int(self.config.bos_token_id))  # type: ignore[arg-type]  # it has one
