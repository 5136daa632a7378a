"""Discrete consistency distillation of uniform noise (Sahoo et al. 2025, arXiv 2506.10892, section 5): the student at a time t learns
what its teacher says at an earlier one, s, where the same Gaussian latents leave less noise. It shortens sampling."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from arche_mdlm.family_mdlm import Family
from arche_mdlm.gaussian_mdlm import gaussian_latents
from arche_mdlm.order_mdlm import Corrupted, sample_timesteps
from arche_mdlm.token_loss_mdlm import TokenLoss


@dataclass(frozen=True)
class Divergence(TokenLoss):
    """KL(student || teacher) of N laws of a token, or KL(teacher || student), in nats. The teacher has no gradient.

    Args:
        targets: (N,) the clean tokens, which count for nothing here.
        states: (N, H) hidden states of the teacher.
        head: of the teacher, from (n, H) to (n, V); called on a chunk at a time.
        backward: the first of the two, which seeks a mode of the teacher.
    """

    states: torch.Tensor | None = None
    head: nn.Module | None = None
    backward: bool = True

    def in_place(self, logits: torch.Tensor, coefficients: torch.Tensor | None) -> torch.Tensor:
        student, teacher, laws = self._logarithms(logits)
        nats = self._divergence(student, teacher, laws)
        if coefficients is not None:
            law, goal = laws
            own = law * (student - teacher - nats[:, None]) if self.backward else law - goal
            logits.copy_(own.mul_(coefficients[:, None]))
        return nats

    def plain(self, logits: torch.Tensor) -> torch.Tensor:
        return self._divergence(*self._logarithms(logits))

    def _logarithms(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """The logarithms (N, V) of the student's and of the teacher's law, 0 at the forbidden token, and the laws, 0 there, too."""
        assert self.states is not None
        assert self.head is not None
        with torch.no_grad():
            teacher = self._forbid_in_place(self.head(self.states).float()).log_softmax(-1)
            goal = teacher.exp()
        student = self._forbid(logits).log_softmax(-1)
        law = student.exp()
        if self.forbidden_id is not None and self._forbids(logits):
            forbidden = torch.eq(torch.arange(logits.shape[-1], device=logits.device), self.forbidden_id)
            student, teacher = student.masked_fill(forbidden, 0.0), teacher.masked_fill(forbidden, 0.0)
        return student, teacher, (law, goal)

    def _divergence(
        self, student: torch.Tensor, teacher: torch.Tensor, laws: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        law, goal = laws
        return (law * (student - teacher) if self.backward else goal * (teacher - student)).sum(-1)


def consistency_batch(
    tokens: torch.Tensor,
    open: torch.Tensor,
    family: Family,
    distance: float,
    window: tuple[float, float],
    generator: torch.Generator,
    stratified: bool = True,
) -> tuple[Corrupted, Corrupted]:
    """What the student reads, and what its teacher reads: uniform noise of the same latents at times t and s = t - `distance`.

    Of a position's V latents two decide: the clean token's and the largest of the others, which is of one token at all times. So a token
    that is lost at s is lost at t, too.

    Args:
        tokens: (B, L) the clean rows.
        open: (B, L) bool; the other positions are given.
        family: of uniform noise on the whole canvas.
        distance: of s and t, in (0, 1]; times are uniform in gamma.
        window: the least and the largest alpha, in (0, 1), at the times 1 and 0.
        stratified: as in `sample_timesteps`.

    Raises:
        ValueError: for another noise, and for a distance that is not in (0, 1].
    """
    if not 0 < distance <= 1:
        raise ValueError(f"distance={distance} must be above 0 and at most 1")
    corruption, latents = gaussian_latents(family)
    late = (sample_timesteps(len(tokens), generator, stratified).double() + distance).clamp(max=1.0)
    clean = corruption.index_of(tokens[open])
    noise, other, largest = latents.decisive(clean, generator)

    def noisy(times: torch.Tensor) -> Corrupted:
        gamma, _ = latents.gamma_within(window, times)
        row = tokens.clone()
        kept = latents.keeps(gamma[:, None].expand(tokens.shape)[open], noise, largest)
        row[open] = corruption.token_at(torch.where(kept, clean, other))
        level = family.schedule.time_at(1 - latents.alpha(gamma)).float()
        return Corrupted(
            row,
            tokens.masked_fill(~open, -100),
            torch.where(open, level[:, None], 0.0),
            torch.ones(len(tokens)),
        )

    return noisy(late), noisy(late - distance)


def teacher_loss(teacher: Any, backward: bool, positions: torch.Tensor, **inputs: torch.Tensor) -> Divergence:
    """The loss of a student whose predictions at `positions`, (B, L) bool or (N,) flat indices, follow a teacher's.

    Args:
        teacher: an `MDLMForMaskedDiffusion`, which reads `inputs` (`input_ids`, `timesteps`); its gradient is not taken.
        backward: as in `Divergence`.
    """
    with torch.no_grad():
        states = teacher.model(positions=positions, **inputs).last_hidden_state
    return Divergence(
        torch.zeros(len(states), dtype=torch.long, device=states.device),
        teacher.config.mask_token_id,
        states.detach(),
        teacher.get_output_embeddings(),
        backward,
    )
