"""Whether greedy decoding of a diffusion model writes an answer."""

from collections.abc import Sequence
from typing import Any

import torch

from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.policy_likelihood import _Decoding
from arche_mdlm.metrics.rows import checked_clean, evaluating, scored_positions
from arche_mdlm.sight_mdlm import real_positions


def writes_greedily(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    condition_mask: torch.Tensor,
    *,
    seeds: Sequence[int],
    batch_size: int = 16,
) -> torch.Tensor:
    """(B,) bool: whether greedy decoding behind the given tokens of rows (B, L), of exactly the scored positions, writes the scored tokens.

    Masked noise, also in blocks: one token a step, the position whose most probable token is the most probable (the policy `confidence`),
    block by block in the model's blocks. A row is left at its first miss, so most cost a forward or two. Uniform noise and Eso-LM:
    `generate(do_sample=False)` in as many steps as tokens, from the row's own seed, since these have no such order: another seed may
    say otherwise.

    Raises:
        ValueError: as `nelbo`, and for uniform noise and Eso-LM where scored tokens do not stand behind all given ones.
    """
    attention_mask = checked_clean(model, input_ids, attention_mask, batch_size)
    scored = scored_positions(input_ids, attention_mask, model.config, condition_mask)
    family = family_of(model)
    with evaluating(model):
        if family.corruption.has_order and not family.order.has_ranks:
            parts = torch.arange(len(input_ids)).split(batch_size)
            return torch.cat([_by_confidence(model, input_ids[i], attention_mask[i], scored[i]) for i in parts])
        return _by_generation(model, input_ids, attention_mask.bool(), scored, seeds, batch_size)


def _by_confidence(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, scored: torch.Tensor
) -> torch.Tensor:
    decoding = _Decoding(model, input_ids, attention_mask, scored, None, False)
    length = family_of(model).order.block_length
    if length is not None:
        decoding.block = real_positions(attention_mask) // length
    greedy = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while len(rows := decoding.open_rows()):
        before = decoding.masked[rows]
        best = decoding.step(rows, "confidence").log()
        chosen = before & ~decoding.masked[rows]
        nats = decoding.token_nats[rows][chosen]
        missed = rows[nats > 1e-12 - best]  # where the token is the best, both are logarithms of one sum
        greedy[missed] = False
        decoding.masked[missed] = False
    return greedy.cpu()


def _by_generation(
    model: Any,
    input_ids: torch.Tensor,
    attended: torch.Tensor,
    scored: torch.Tensor,
    seeds: Sequence[int],
    batch_size: int,
) -> torch.Tensor:
    """Rows with answers of one length are written together."""
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    lengths = scored.sum(-1)
    starts = (attended & ~scored).long().mul(columns + 1).amax(-1)
    if bool((scored & (columns < starts[:, None])).any()):
        raise ValueError(
            "condition_mask gives tokens after scored ones: greedy decoding needs a prompt before the answer"
        )
    greedy = torch.zeros(len(input_ids), dtype=torch.bool)
    for length in lengths.unique().tolist():
        for part in (lengths == length).nonzero()[:, 0].split(batch_size):
            rows, width = part.tolist(), int(starts[part].max())
            written = model.generate(
                input_ids[part, :width],
                attention_mask=(attended & ~scored)[part, :width].long(),
                generator=[torch.Generator().manual_seed(seeds[row]) for row in rows],
                max_new_tokens=length, num_diffusion_steps=length, do_sample=False, eos_token_id=None,
            )  # fmt: skip
            wanted = torch.stack([input_ids[row][scored[row]] for row in rows])
            greedy[rows] = (written[:, -length:] == wanted).all(-1).cpu()
    return greedy
