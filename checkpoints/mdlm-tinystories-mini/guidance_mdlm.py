"""Classifier-free guidance: away from what the model would write without the prompt, or with another one."""

from dataclasses import dataclass

import torch

from .canvas_mdlm import Canvas, model_inputs


@dataclass(frozen=True)
class Guidance:
    """log p = log p_without + scale (log p_with - log p_without), not normalised.

    Source: Ho and Salimans 2022, arXiv 2207.12598; for masked diffusion, with the prompt masked as the unconditional
    canvas: Nie et al. 2025, arXiv 2410.18514 and 2502.09992.

    Args:
        scale: 1 turns guidance off, more pushes away from the other canvas, 0 uses that canvas alone.
        prompt, attended: (B, Pn) negative prompts in place of the rows' own prompts of `width` tokens, and where they are
            no padding; None: the row's own canvas with everything that was given, BOS aside, masked.
    """

    scale: float
    prompt: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    width: int = 0

    @classmethod
    def build(
        cls,
        scale: float | None,
        prompt: torch.Tensor | None,
        prompt_mask: torch.Tensor | None,
        canvas: Canvas,
        context: int,
    ) -> "Guidance | None":
        """None for a scale of None or 1; ValueError for a negative scale, or a prompt that does not fit its use."""
        if scale is None or scale == 1:
            if prompt is not None:
                raise ValueError(f"negative_prompt_ids need guidance_scale above 1, but it is {scale}")
            return None
        if not scale >= 0:
            raise ValueError(f"guidance_scale={scale!r} must be at least 0; 1 turns guidance off, more is stronger")
        if prompt is None:
            return cls(scale)
        rows, width = canvas.given.shape
        if rows % len(prompt):
            raise ValueError(
                f"negative_prompt_ids has {len(prompt)} rows, which does not divide the {rows} of input_ids"
            )
        if bool(canvas.fillable[:, :width].any()):
            raise ValueError("negative_prompt_ids cannot stand in for a prompt with masks in it; leave them out")
        attended = torch.ones_like(prompt) if prompt_mask is None else prompt_mask
        new = canvas.tokens.shape[1] - width
        if int(attended.sum(-1).max()) + new > context:
            raise ValueError(
                f"negative_prompt_ids of {int(attended.sum(-1).max())} tokens and {new} new ones do not fit the context of "
                f"{context}"
            )
        prompt = prompt.to(canvas.tokens.device).masked_fill(attended == 0, canvas.mask_token_id)
        times = rows // len(prompt)
        attended = attended.bool().to(prompt.device)
        return cls(scale, prompt.repeat_interleave(times, 0), attended.repeat_interleave(times, 0), width)

    def other(
        self, canvas: Canvas, rows: torch.Tensor, where: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The other canvas of `rows` (R,) as inputs of the model, and where (R, L') the same positions are in it."""
        tokens, attended = canvas.tokens[rows], canvas.attended[rows]
        if self.prompt is None or self.attended is None:
            given = attended & ~canvas.fillable[rows]
            if canvas.bos_token_id is not None:  # context, not prompt
                given &= (tokens != canvas.bos_token_id) | (canvas.position_ids[rows] > 0)
            return canvas.inputs(rows) | {"input_ids": tokens.masked_fill(given, canvas.mask_token_id)}, where
        tokens = torch.cat([self.prompt[rows], tokens[:, self.width :]], dim=1)
        attended = torch.cat([self.attended[rows], attended[:, self.width :]], dim=1)
        where = torch.cat([torch.zeros_like(self.attended[rows]), where[:, self.width :]], dim=1)
        positions = (attended.long().cumsum(-1) - 1).clamp(min=0)
        return model_inputs(tokens, attended, positions), where

    def combine(self, given: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Guided log-probabilities (n, V) from logits (n, V) of both canvases; -inf stays -inf."""
        given, other = given.log_softmax(-1), other.log_softmax(-1)
        return torch.where(given.isinf(), given, other + self.scale * (given - other))
