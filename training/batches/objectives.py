"""Training objectives: how a batch of clean tokens becomes a corrupted canvas, labels and loss weights."""

from typing import NamedTuple

import torch

from arche_mdlm.schedule_mdlm import NoiseSchedule


class Corrupted(NamedTuple):
    """Keyword arguments of `MDLMForMaskedDiffusion.forward`, for B rows of L positions."""

    input_ids: torch.Tensor  # (B, L), mask_token_id where corrupted
    labels: torch.Tensor  # (B, L), the clean token where corrupted, -100 elsewhere
    timesteps: torch.Tensor  # (B,)
    loss_weights: torch.Tensor  # (B,)


def sample_timesteps(num_rows: int, generator: torch.Generator, stratified: bool = True) -> torch.Tensor:
    """Times (num_rows,) in (0, 1].

    Stratified over the whole batch, t_i = (u + i) / n mod 1 with one u a step and the rows in random order (Sahoo et al.
    2024, arXiv 2406.07524, the low-discrepancy sampler), or independent (the arche paper).
    """
    if stratified:
        u = torch.rand(1, generator=generator, dtype=torch.float64)
        # In random order: a batch's rows stand in order of length, and no length may always get the same time.
        order = torch.randperm(num_rows, generator=generator)
        times = (u + order) / num_rows % 1
    else:
        times = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    return (1 - times).float()  # (0, 1]: at t = 0 nothing is masked and the NELBO's weight is infinite


def corrupt(
    input_ids: torch.Tensor,
    maskable: torch.Tensor,
    timesteps: torch.Tensor,
    schedule: NoiseSchedule,
    mask_token_id: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward process: each maskable token becomes the mask with probability 1 - alpha(t).

    Args:
        input_ids, maskable: (B, L) tokens, and where a token may be corrupted (not BOS).
        timesteps: (B,).

    Returns:
        canvas (B, L) and labels (B, L), -100 where nothing was masked.
    """
    uniform = torch.rand(input_ids.shape, generator=generator)
    masked = (uniform < schedule.mask_rate(timesteps)[:, None]) & maskable
    return input_ids.masked_fill(masked, mask_token_id), input_ids.masked_fill(~masked, -100)


def loss_weights(objective: str, timesteps: torch.Tensor, schedule: NoiseSchedule) -> torch.Tensor:
    """Weight (B,) of each row's cross-entropies.

    `nelbo`: w(t), Sahoo et al. 2024, eq. 10; `low_variance`: 1, Sahoo et al. 2026, arXiv 2602.15014; `masked_mean`: 1
    (Vicentino 2026, arXiv 2603.22075), which differs by what the sum is divided by. ValueError for any other name.
    """
    if objective == "nelbo":
        return schedule.weight(timesteps)
    if objective in ("low_variance", "masked_mean"):
        return torch.ones_like(timesteps)
    raise ValueError(f"objective={objective!r} is not one of nelbo, low_variance, masked_mean")


def loss_denominator(objective: str, num_real_tokens: int, labels: torch.Tensor) -> int:
    """What the global batch's sum of cross-entropies is divided by: its masked tokens for `masked_mean`, else its real
    tokens (BOS and the supervised tail not counted), so that a loss is comparable with an AR NLL."""
    if objective == "masked_mean":
        return max(int((labels != -100).sum()), 1)
    return num_real_tokens


def corrupt_batch(
    input_ids: torch.Tensor,
    maskable: torch.Tensor,
    objective: str,
    schedule: NoiseSchedule,
    mask_token_id: int,
    generator: torch.Generator,
    stratified: bool = True,
) -> Corrupted:
    """Times, corruption and weights of one global batch; see `sample_timesteps`, `corrupt` and `loss_weights`."""
    timesteps = sample_timesteps(len(input_ids), generator, stratified)
    canvas, labels = corrupt(input_ids, maskable, timesteps, schedule, mask_token_id, generator)
    return Corrupted(canvas, labels, timesteps, loss_weights(objective, timesteps, schedule))
