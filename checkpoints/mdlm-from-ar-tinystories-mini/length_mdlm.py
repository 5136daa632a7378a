"""The length of a text drawn before the text: where the end token goes, by what the model says of the empty canvas.

A sampler that fills the surest positions first fills the end first: behind any text an end token and pads are what a model is surest
of, so such texts are far too short (reported of LLaDA and Dream alike). In the law of the data exactly one position holds the end
token, so its probabilities at all positions are the law of the length, and one forward tells it.
"""

import torch

from .canvas_mdlm import Canvas
from .noise_mdlm import RowNoise
from .precision_mdlm import finest
from .prediction_mdlm import Predictor

_LENGTH = 9  # the purpose of the noise


def draw_ends(predictor: Predictor, canvas: Canvas, seeds: torch.Tensor, sample: bool) -> None:
    """Put an end token and pads behind it on the canvas, in place; no text may then end before.

    A row keeps its whole length with the probability that no position holds an end token. Rows in which nothing is to be
    written behind the last given token are left as they are.

    Args:
        predictor: without a cache and without warpers (`without_warpers`), which change a token's law at a position, but not how
            likely a length is; a forward is counted for each row.
        seeds: (B,) of the rows' random streams.
        sample: draw the length; else it is the median of its law.
    """
    tail = canvas.generated & canvas.masked
    rows = tail.any(-1).nonzero()[:, 0]
    if not len(rows) or not len(canvas.eos_token_ids):
        return
    law = _law_of_the_end(predictor, canvas, rows, tail[rows])
    first = tail[rows].long().argmax(-1, keepdim=True)
    noise = RowNoise(seeds[rows], canvas.position_ids[rows]).uniform(_LENGTH).gather(1, first)
    u = noise if sample else torch.full_like(noise, 0.5)
    reached = law.cumsum(-1) > u
    ends = reached & (reached.long().cumsum(-1) == 1)
    behind = (reached & ~ends) & tail[rows]
    least = torch.where(ends, canvas.position_ids[rows], 0).sum(-1)
    unended = canvas.attended[rows].sum(-1)
    canvas.put_ends(rows, ends, behind, torch.where(reached.any(-1), least, unended))


def _law_of_the_end(predictor: Predictor, canvas: Canvas, rows: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
    """(R, L): the probability that a text ends at each position; what is missing to 1 is that of no end."""
    dtype = finest(rows.device)
    start, first = torch.ones(len(rows), 1, dtype=dtype, device=rows.device), torch.zeros_like(rows)
    found = torch.zeros(int(tail.sum()), dtype=dtype, device=rows.device)
    for _, processed, part in predictor.logits(rows, first, start, tail, None):
        found[part] = processed.softmax(-1)[:, canvas.eos_token_ids].sum(-1).to(dtype)
    law = torch.zeros(tail.shape, dtype=dtype, device=rows.device).masked_scatter(tail, found)
    if bool((canvas.eos_token_ids == canvas.pad_token_id).any()):
        # One token ends the text and fills the rest: what it says at a position is that the text has ended by then.
        reached = law.cummax(-1).values
        law = reached.diff(dim=-1, prepend=torch.zeros_like(reached[:, :1]))
    return law / law.sum(-1, keepdim=True).clamp(min=1.0)
