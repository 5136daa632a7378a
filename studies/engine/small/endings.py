"""Endings of rows against those of other rows: whether a model finds the true one likelier behind the same beginning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Endings:
    """Pairs of rows of token ids that are equally long and begin alike: one with its own ending, one with that of another row.

    Args:
        true, corrupted: the rows.
        num_given: of each pair the length of the beginning, the BOS counted.
    """

    true: Rows
    corrupted: Rows
    num_given: Sequence[int]

    @classmethod
    def of(cls, rows: Rows, number: int, seed: Sequence[int], eos_token_id: int | None) -> "Endings":
        """Pairs of `number` of the rows, or of as many as have one; the same for a seed.

        An ending is the last third of a row's tokens. The other is as many last tokens of another row, drawn among those that
        have other ones and end with an EOS where the row does, so that the end of the text does not tell which is which.
        ValueError where no row has such another.
        """
        rng = np.random.default_rng(seed)
        true: list[list[int]] = []
        corrupted: list[list[int]] = []
        given: list[int] = []
        for index in rng.permutation(len(rows)):
            row, length = list(rows[index]), len(rows[index]) // 3
            others = [list(other) for other in rows if length and _fits(list(other), row, length, eos_token_id)]
            if others and len(true) < number:
                other = others[rng.integers(len(others))]
                true.append(row)
                corrupted.append(row[:-length] + other[-length:])
                given.append(len(row) - length)
        if not true:
            raise ValueError(
                f"endings: none of {len(rows)} held-out rows has another one whose ending could be its own"
            )
        return cls(true, corrupted, given)

    def share(self, nats: Callable[[Rows, Sequence[int]], Sequence[float]]) -> float:
        """Of pairs whose true ending is likelier; `nats` gives -log p(ending | beginning) of rows and the lengths of their beginnings."""
        pairs = zip(nats(self.true, self.num_given), nats(self.corrupted, self.num_given), strict=True)
        return sum(own < other for own, other in pairs) / len(self.true)


def _fits(other: list[int], row: list[int], length: int, eos_token_id: int | None) -> bool:
    """Whether the last `length` tokens of `other`, its first one not among them, are another ending for `row`."""
    ends_alike = (other[-1] == eos_token_id) == (row[-1] == eos_token_id)
    return len(other) > length and ends_alike and other[-length:] != row[-length:]
