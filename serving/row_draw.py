"""Drawing an autoregressive model's tokens with a random stream a row, so that a text does not depend on its batch."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from arche_mdlm.noise_mdlm import RowNoise, inverse_cdf


class RowDraw(LogitsProcessor):
    """Draws each row's next token itself: all others get -inf, so that `generate(do_sample=False)` takes it.

    transformers draws from one stream a batch. Here token number k of a row is drawn by number k of the row's own stream
    (`RowNoise`), behind the processors of the generation config and these, in transformers' order.

    Args:
        seeds: (B,) int64.
        prompt_width: columns of the padded prompts.
        temperature, top_k, top_p, min_p: as in `GenerationConfig`; None, or 0 for `top_k`: off.
    """

    def __init__(
        self,
        seeds: torch.Tensor,
        prompt_width: int,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ) -> None:
        self.noise = RowNoise(seeds, torch.zeros(len(seeds), 1, dtype=torch.int64, device=seeds.device))
        self.prompt_width = prompt_width
        self.warpers: Sequence[Any] = [
            *([TemperatureLogitsWarper(temperature)] if temperature not in (None, 1.0) else []),
            *([TopKLogitsWarper(top_k)] if top_k else []),
            *([TopPLogitsWarper(top_p)] if top_p is not None and top_p < 1 else []),
            *([MinPLogitsWarper(min_p)] if min_p else []),
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) scores with 0 at the drawn token of each row and -inf elsewhere."""
        for warp in self.warpers:
            scores = warp(input_ids, scores)
        uniform = self.noise.at_step(input_ids.shape[1] - self.prompt_width).uniform(0)[:, 0]
        tokens = inverse_cdf(scores.float().softmax(-1), uniform)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)
