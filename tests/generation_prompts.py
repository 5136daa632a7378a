"""Prompts and calls of `generate` for its tests."""

import torch

BOS, EOS, PAD, MASK = range(4)


PROMPTS = [[BOS, 5, 6], [BOS, 7], [BOS, 8, MASK, 9, 10]]


def write(model, prompts, **settings):
    return model.generate(torch.as_tensor(prompts), **{"do_sample": True, "num_diffusion_steps": 5, **settings})


def padded(side: str) -> dict[str, torch.Tensor]:
    """PROMPTS as a batch."""
    width = max(len(prompt) for prompt in PROMPTS)
    rows = [([PAD] * (width - len(p)), p, [0] * (width - len(p)), [1] * len(p)) for p in PROMPTS]
    left = side == "left"
    return {
        "input_ids": torch.tensor([pad + p if left else p + pad for pad, p, _, _ in rows]),
        "attention_mask": torch.tensor([off + on if left else on + off for _, _, off, on in rows]),
    }
