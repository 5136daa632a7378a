"""The bound on the likelihood, canvases a second: ours in batches, and the naive way, a canvas at a time with all logits."""

import torch
from torch.nn import functional as F

from arche_mdlm.metrics.likelihood import nelbo
from benchmarks import naive, sampling
from benchmarks.train_step import Shape

_ROWS, _DRAWS, _NAIVE = 8, 4, 4


def contestants(shape: Shape, device: torch.device) -> dict:
    """Both on rows of random tokens as long as the canvas."""
    model = sampling.random_model(shape.mdlm.model, device)
    generator = torch.Generator().manual_seed(0)
    mask_id = model.config.mask_token_id
    rows = torch.randint(1, mask_id - 1, (_ROWS, shape.length), generator=generator).to(device)

    def ours() -> None:
        nelbo(model, rows, num_samples=_DRAWS, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def one_at_a_time() -> None:
        for row in rows[:_NAIVE]:
            t = torch.rand(1, generator=generator).clamp(min=1e-3)
            masked = torch.rand(len(row), generator=generator).to(device) < t.to(device)
            states = model.model(input_ids=row.masked_fill(masked, mask_id)[None]).last_hidden_state
            logits = naive.full_logits(model, states)[0]
            nats = F.cross_entropy(logits, row, reduction="none")
            ((nats * masked).sum() / t.to(device)).item()

    return {"ours": (ours, _ROWS * _DRAWS), "naive": (one_at_a_time, _NAIVE)}
