"""LLaDA's sampling loop and likelihood (Nie et al. 2025, arXiv 2502.09992), written plainly as the reference.

Only the computation differs from the library: the model is the same object.
"""

import torch
from torch.nn import functional as F

from benchmarks.naive import full_logits


def _logits(model, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (B, L, V) at every position."""
    return full_logits(model, model.model(input_ids=tokens).last_hidden_state)


@torch.no_grad()
def sample(model, prompts: torch.Tensor, length: int, steps: int, block_length: int) -> torch.Tensor:
    """(B, P + length) from prompts (B, P): the most probable tokens, the surest positions first, block by block.

    A step draws at temperature 0, in float64, at every position; of each row's block the steps commit equal numbers of
    positions, the first steps one more where they do not divide. `length` is a multiple of `block_length`, `steps` of the number
    of blocks.
    """
    mask_id = model.config.mask_token_id
    tokens = F.pad(prompts, (0, length), value=mask_id)
    of_block = steps * block_length // length
    for end in range(prompts.shape[1] + block_length, tokens.shape[1] + 1, block_length):
        for step in range(of_block):
            masked = tokens == mask_id
            probabilities = _logits(model, tokens).to(torch.float64).softmax(-1)
            chosen = probabilities.argmax(-1)
            confidence = probabilities.gather(-1, chosen[..., None])[..., 0]
            confidence[:, end:] = -torch.inf
            confidence = confidence.masked_fill(~masked, -torch.inf)
            count = block_length // of_block + (step < block_length % of_block)
            for row in range(len(tokens)):
                at = confidence[row].topk(count).indices
                tokens[row, at] = chosen[row, at]
    return tokens


@torch.no_grad()
def answer_nats(
    model, row: torch.Tensor, prompt_length: int, draws: int, batch_size: int, generator: torch.Generator
) -> torch.Tensor:
    """(draws,) estimates of -log p(answer | prompt) of one row (L,), in batches of copies of it.

    A batch masks k, k + n / B, ... of the answer's n positions (modulo n, at least 1), k drawn at random; cross-entropies from logits
    at every position, divided by the share that is masked.
    """
    found = []
    size = len(row) - prompt_length
    for first in range(0, draws, batch_size):
        copies = min(batch_size, draws - first)
        start = int(torch.randint(1, size + 1, (1,), generator=generator))
        counts = torch.linspace(start, start + (copies - 1) * size / copies, copies).round().long()
        counts = (counts - 1) % size + 1
        order = torch.rand(copies, size, generator=generator).argsort(-1)
        masked = F.pad(order < counts[:, None], (prompt_length, 0)).to(row.device)
        noisy = row.expand(copies, -1).masked_fill(masked, model.config.mask_token_id)
        nats = F.cross_entropy(_logits(model, noisy)[masked], row.expand(copies, -1)[masked], reduction="none")
        weights = (size / counts).to(nats)[:, None].expand(-1, len(row))[masked]
        found.append(torch.zeros(copies, device=row.device).index_add(0, masked.nonzero()[:, 0], nats * weights))
    return torch.cat(found)
