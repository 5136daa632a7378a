"""Several sources, drawn from in turns by their weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from arche_mdlm.training.data.formats import Conversation, Exchange, Item, plain_text
from arche_mdlm.training.data.sources import Source, open_source

_SEED = 20261  # the same order of the sources at every preparation


@dataclass(frozen=True)
class Mixture:
    """Sources that are interleaved: the next item comes from one of them by its weight. What is held out is read one after another."""

    parts: tuple[Source, ...]
    weights: tuple[float, ...]
    stopping: str

    @property
    def name(self) -> str:
        return ",".join(part.name for part in self.parts)

    @property
    def split(self) -> str:
        return self.parts[0].split

    @property
    def revision(self) -> str | None:
        """The commits of those that are of the Hub."""
        return ",".join(part.revision for part in self.parts if part.revision) or None

    def fingerprint(self) -> str:
        """As `Source.fingerprint`."""
        return json.dumps([[part.fingerprint() for part in self.parts], self.weights, self.stopping])

    def __iter__(self) -> Iterator[str]:
        return (plain_text(item) for item in self.items() if item is not None)

    def items(self) -> Iterator[Item | None]:
        """As `Source.items`."""
        if self.split != "train":
            return (item for part in self.parts for item in part.items())
        import datasets

        streams = [datasets.IterableDataset.from_generator(_packed, gen_kwargs={"part": part}) for part in self.parts]
        shares = [weight / sum(self.weights) for weight in self.weights]
        mixed = datasets.interleave_datasets(streams, shares, seed=_SEED, stopping_strategy=self.stopping)
        return (_unpacked(row["item"]) for row in mixed)


def open_mixture(
    source: str | os.PathLike, weights: Sequence[float], stopping: str = "first_exhausted", **options: Any
) -> Mixture:
    """The sources that `source` names with commas between them.

    Args:
        weights: one a source, above 0; their sum may differ from 1.
        stopping: "first_exhausted": until one source has no more; "all_exhausted": until each has been read at least once, the shorter
            ones being repeated.
        **options: of `open_source`.

    Raises:
        ValueError: for weights that are not one a source.
        FileNotFoundError, ValueError: as `open_source`.
    """
    check_weights(source, weights)
    return Mixture(tuple(open_source(name, **options) for name in names_of(source)), tuple(weights), stopping)


def check_weights(source: str | os.PathLike, weights: Sequence[float]) -> None:
    """ValueError for weights that are not one a source, or not above 0."""
    names = names_of(source)
    if len(weights) != len(names):
        raise ValueError(
            f"data.weights={list(weights)} are {len(weights)} for the {len(names)} sources {', '.join(names)}: give one per source"
        )
    for weight in weights:
        if not weight > 0:
            raise ValueError(f"data.weights={list(weights)} must be above 0; to skip a source, remove it")


def names_of(source: str | os.PathLike) -> list[str]:
    """The sources of a mixture."""
    return [name.strip() for name in os.fspath(source).split(",") if name.strip()]


def _packed(part: Source) -> Iterator[dict[str, str]]:
    """Items as JSON: `datasets` would give all messages the columns of each other."""
    for item in part.items():
        kind = type(item).__name__
        yield {"item": json.dumps([kind, list(item) if isinstance(item, tuple) else item])}


def _unpacked(packed: str) -> Item | None:
    kind, value = json.loads(packed)
    types: dict[str, Any] = {"Exchange": Exchange, "Conversation": Conversation}
    return types[kind](*value) if kind in types else value
