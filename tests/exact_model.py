"""A masked diffusion model whose predictions are the exact posterior of a tiny enumerated language."""

import torch
from oracles.tables import TableLanguage
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion


class ExactTrunk(nn.Module):
    """The posterior's logarithm, float64, in place of hidden states."""

    def __init__(self, language, config):
        super().__init__()
        self.language, self.config = language, config
        self.nothing = nn.Parameter(torch.zeros(0))  # a module's parameters say where it is

    def forward(self, input_ids, positions=None, **kwargs):
        canvas = input_ids[:, 1:]
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -torch.inf, dtype=torch.float64)
        posterior = self.language.posterior(canvas, canvas != self.config.mask_token_id)
        logits[:, 1:, : self.language.vocab_size] = posterior.log()
        logits[:, 0, 0] = 0.0  # BOS is not predicted; this avoids a softmax of -inf alone, which is NaN
        return BaseModelOutput(last_hidden_state=logits if positions is None else logits[positions])


class ExactModel(MDLMForMaskedDiffusion):
    """`generate` and all, on rows of a BOS and the language's positions. Ids: tokens 0..V-1, BOS = V, mask = V + 1, pad = V + 2."""

    def __init__(self, language: TableLanguage, noise_schedule: str = "linear"):
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

    def subs_logits(self, states):
        return states

    def bos(self, num_rows: int) -> torch.Tensor:
        return torch.full((num_rows, 1), self.config.bos_token_id)

    def counts(self, sequences: torch.Tensor) -> torch.Tensor:
        """How often each of the language's sequences, in its order, occurs in generated rows (B, 1 + L)."""
        powers = self.language.vocab_size ** torch.arange(self.language.length - 1, -1, -1)
        return torch.bincount((sequences[:, 1:] * powers).sum(-1), minlength=len(self.language.sequences))
