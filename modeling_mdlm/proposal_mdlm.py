"""A token for each of many positions, with the scores by which samplers rank them, computed from a chunk of logits at a time."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from .noise_mdlm import block_sums, inverse_cdf, two_largest


@dataclass(frozen=True)
class Proposal:
    """One token for each of N positions.

    Args:
        tokens: (N,) int64.
        confidence: (N,) float64, the model's probability of the token, before temperature, top-p and other processors.
        margin: (N,) float64, probability of the most probable token less that of the second; where asked for.
        entropy: (N,) float64, nats, of the model's distribution; where asked for.
    """

    tokens: torch.Tensor
    confidence: torch.Tensor
    margin: torch.Tensor | None = None
    entropy: torch.Tensor | None = None

    def select(self, chosen: torch.Tensor) -> "Proposal":
        """The part of it at `chosen` (N,) bool."""
        return Proposal(self.tokens[chosen], self.confidence[chosen])


# `predict(where, reduce, times)` of `Predictor.at`: runs the model at the True positions of `where` (B, L), and lists what
# `reduce(raw, processed, part)` returns for a few positions at a time.
Predict = Callable[..., list[Proposal]]


def propose(
    predict: Predict,
    where: torch.Tensor,
    uniform: torch.Tensor | None,
    *,
    statistics: Collection[str] = (),
    process: Callable[[torch.Tensor, slice], torch.Tensor] | None = None,
    times: torch.Tensor | None = None,
) -> Proposal:
    """A `Proposal` for the True positions of `where` (B, L), N of them in row-major order.

    Args:
        predict: `predict(where, reduce, times)` runs the model and calls `reduce(raw, processed, part)` on a few
            positions at a time: their logits (n, V) before and after the logits processors, one tensor where there are
            none, which may be overwritten; and the slice of the N.
        uniform: (N,) float64 in [0, 1) that draw the tokens, or None for the most probable ones.
        statistics: which of `"margin"` and `"entropy"` are wanted.
        process: what else happens to processed logits (n, V) before tokens are drawn; gets the slice too. The
            confidence is then that of the distribution that comes out.
    """

    def reduce(raw: torch.Tensor, processed: torch.Tensor, part: slice) -> Proposal:
        if process is not None:
            raw = processed = process(processed, part)
        one = raw is processed
        if uniform is None:
            tokens = processed.argmax(-1)
        elif not one:
            tokens = inverse_cdf(_shift(processed).exp_(), uniform[part])
        shifted = _shift(raw)
        weights = shifted.exp() if "entropy" in statistics else shifted.exp_()
        sums = block_sums(weights)
        total = sums.sum(-1)
        if one and uniform is not None:
            tokens = inverse_cdf(weights, uniform[part], sums)
        confidence = weights.gather(-1, tokens[:, None])[:, 0].to(torch.float64) / total
        margin = entropy = None
        if "margin" in statistics:
            margin = -two_largest(weights).to(torch.float64).diff(dim=-1)[:, 0] / total
        if "entropy" in statistics:
            # Of weights w = exp(x): log(sum w) - sum(w x) / sum(w); clamped, as 0 times -inf is NaN.
            entropy = total.log() - shifted.clamp_(min=-1e4).mul_(weights).sum(-1).to(torch.float64) / total
        return Proposal(tokens, confidence, margin, entropy)

    return _join(predict(where, reduce, times), where)


def _shift(logits: torch.Tensor) -> torch.Tensor:
    """logits (n, V) less each row's largest, in place."""
    return logits.sub_(logits.amax(-1, keepdim=True))


def _join(parts: list[Proposal], where: torch.Tensor) -> Proposal:
    if not parts:
        empty = torch.zeros(0, dtype=torch.float64, device=where.device)
        return Proposal(empty.long(), empty, empty, empty)
    names = ("tokens", "confidence", "margin", "entropy")
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    return Proposal(**{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})
