"""No text, no statistics: models and sets of texts of which a report shows the figures and says nothing."""

from collections.abc import Mapping, Sequence
from statistics import median

LEAST_WORDS = 20  # of the median text
MARK = "†"


def median_words(texts: Sequence[str]) -> float:
    """Words of the median text."""
    return float(median(len(text.split()) for text in texts))


def why_poor(words: float | None, nats: float | None, floor: float | None) -> str | None:
    """Why the report makes no statement about a set of texts, or None.

    Args:
        words: of the median text.
        nats: the likelihood of the model that wrote it, nats a token; of a diffusion model its bound, unless its exact one is known.
        floor: an interpolated bigram's, on the same stories and tokens.
    """
    if words is not None and words < LEAST_WORDS:
        return f"its median text has {words:g} words, under {LEAST_WORDS}"
    if nats is not None and floor is not None and nats > floor:
        return f"{nats:.2f} nats a token, worse than an interpolated bigram's {floor:.2f}"
    return None


def note(poor: Mapping[str, str]) -> str:
    """What the mark in a table means; empty if nothing is marked."""
    if not poor:
        return ""
    return f"{MARK} shown, but left out of all sentences: {'; '.join(f'{name}: {why}' for name, why in poor.items())}."
