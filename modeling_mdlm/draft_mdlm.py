"""A sampler's view of the canvas, with methods to fill and remask positions."""

from dataclasses import dataclass, replace

import torch

from .proposal_mdlm import Proposal


@dataclass(frozen=True)
class Draft:
    """B canvases of L positions at one moment; `fill` and `remask` give a new one.

    Args:
        tokens: (B, L); `mask_token_id` at unfilled positions, including later blocks and padding.
        masked: (B, L) bool, masked positions of the current block.
        fillable: (B, L) bool, positions of the current block that were masked at the start, filled by now or not.
        confidence: (B, L) float64, the probability that each token had when it was put there.
    """

    tokens: torch.Tensor
    masked: torch.Tensor
    fillable: torch.Tensor
    confidence: torch.Tensor
    mask_token_id: int

    def fill(self, chosen: torch.Tensor, proposal: Proposal) -> "Draft":
        """Put a proposal's N tokens, in row-major order, on the True positions of `chosen` (B, L), of which there are N."""
        return replace(
            self,
            tokens=self.tokens.masked_scatter(chosen, proposal.tokens),
            confidence=self.confidence.masked_scatter(chosen, proposal.confidence),
            masked=self.masked & ~chosen,
        )

    def remask(self, chosen: torch.Tensor) -> "Draft":
        """Mask the True positions of `chosen` (B, L) again."""
        return replace(
            self,
            tokens=self.tokens.masked_fill(chosen, self.mask_token_id),
            confidence=self.confidence.masked_fill(chosen, 0.0),
            masked=self.masked | chosen,
        )
