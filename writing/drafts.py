"""A canvas as text, while it is still being written."""

from typing import Any

MASK = "░"


def draft_text(tokenizer: Any, tokens: list[int]) -> str:
    """Token ids as text: a mask is one block, other special tokens are left out."""
    parts = [(MASK if is_mask else tokenizer.decode(part, skip_special_tokens=True)) * (len(part) if is_mask else 1)
             for is_mask, part in runs(tokens, [token == tokenizer.mask_token_id for token in tokens])]  # fmt: skip
    return "".join(parts)


def runs(tokens: list[int], keys: list) -> list[tuple]:
    """Neighbours of the same key together, as (key, tokens): letters of several bytes may be split over tokens."""
    found: list[tuple] = []
    for token, key in zip(tokens, keys, strict=True):
        if found and found[-1][0] == key:
            found[-1][1].append(token)
        else:
            found.append((key, [token]))
    return found
