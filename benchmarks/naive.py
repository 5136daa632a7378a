"""The arche paper's way of training and sampling (Vicentino 2026, arXiv 2603.22075), written plainly as the reference.

Only the computation differs from the library: the weights and the backbone are the same objects.
"""

import torch
from torch.nn import functional as F


def masked_mean_loss(model, input_ids: torch.Tensor, targets: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Loss of a corrupted batch (B, L): logits and cross-entropy at every position, then the mean of the masked ones."""
    hidden = model.model(input_ids=input_ids, timesteps=timesteps).last_hidden_state
    logits = full_logits(model, hidden)
    masked = input_ids == model.config.mask_token_id
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (loss * masked).sum() / masked.sum()


def next_token_loss(model, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, logits at every position; labels are -100 at unscored positions."""
    logits = model(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def plain_adamw(model, learning_rate: float) -> torch.optim.AdamW:
    """AdamW with PyTorch's defaults (not fused), weight decay 0.01 on all parameters."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)


@torch.no_grad()
def sample(
    model, prompt_ids: list[int], length: int, steps: int, temperature: float = 0.8, generator=None
) -> list[int]:
    """One text of `length` tokens, as the paper's released code does it (docs/formulas.md); `generator=None` takes the most probable tokens.

    t is fed as 1 - s/S; logits of every token already placed are divided by min(1.3^count, 5); the temperature is
    T (0.4 + 0.6 (1 - s/S)); floor(masked / steps left) positions a step, at least 1, go to the drawn tokens with the
    highest probability; what is left is filled by argmax at t = 0.
    """
    mask_id = model.config.mask_token_id
    device = model.device
    tokens = torch.full((length,), mask_id, device=device)
    tokens[: len(prompt_ids)] = torch.tensor(prompt_ids, device=device)
    counts: dict[int, int] = {}
    for token in prompt_ids:
        if token != mask_id:
            counts[token] = counts.get(token, 0) + 1
    for step in range(steps):
        masked = tokens == mask_id
        left = int(masked.sum())
        if not left:
            break
        t = 1 - step / steps
        logits = _logits_of_one(model, tokens, t, device)
        for token, count in counts.items():
            logits[:, token] /= min(1.3**count, 5.0)
        probabilities = (logits / (temperature * (0.4 + 0.6 * t))).softmax(-1)
        # At every position, the known ones too, as the released code has it.
        if generator is None:
            drawn = probabilities.argmax(-1)
        else:
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        confidence = probabilities.gather(-1, drawn[:, None])[:, 0].masked_fill(~masked, -1.0)
        count = max(1, left // (steps - step))
        for position in confidence.topk(min(count, left)).indices:
            token = int(drawn[position])
            tokens[position] = token
            counts[token] = counts.get(token, 0) + 1
    masked = tokens == mask_id
    if masked.any():
        tokens[masked] = _logits_of_one(model, tokens, 0.0, device)[masked].argmax(-1)
    return tokens.tolist()


def _logits_of_one(model, tokens: torch.Tensor, t: float, device) -> torch.Tensor:
    """Logits (L, V) of one canvas, at every position."""
    timesteps = torch.tensor([t], device=device)
    hidden = model.model(input_ids=tokens[None], timesteps=timesteps).last_hidden_state
    return full_logits(model, hidden)[0]


def full_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    """The head on every position; the mask is never predicted (the paper's head lacks a row for it)."""
    logits = model.lm_head(hidden)
    if model.config.mask_token_id < logits.shape[-1]:
        logits[..., model.config.mask_token_id] = -torch.inf
    return logits
