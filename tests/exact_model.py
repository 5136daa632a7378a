"""A masked diffusion model whose predictions are the exact posterior of a tiny enumerated language."""

import torch

from arche_mdlm.studies.error_rates import oracle
from arche_mdlm.studies.error_rates.oracle import ExactTrunk

__all__ = ["ExactModel", "ExactTrunk"]


class ExactModel(oracle.ExactModel):
    """Also counts what it has generated."""

    def counts(self, sequences: torch.Tensor) -> torch.Tensor:
        """How often each of the language's sequences, in its order, occurs in generated rows (B, 1 + L)."""
        powers = self.language.vocab_size ** torch.arange(self.language.length - 1, -1, -1)
        return torch.bincount((sequences[:, 1:] * powers).sum(-1), minlength=len(self.language.sequences))
