"""Text to training rows: read, strip, tokenise, lay out, and keep the result in a cache as a memory-mapped dataset.

    layout     a row of `input_ids`                           other columns
    rows       one whole story: BOS tokens EOS                num_bytes: UTF-8 bytes of the story (or of the piece)
    packed     context_length ids of BOS .. EOS stories       document_ids: which story of the row, 0-based
    windows    context_length ids, no BOS, EOS or separator   -
    rows of prompts: BOS prompt answer EOS (`answers.py`)     num_bytes of the answer; num_given: tokens of BOS and prompt

Padding is not done here: the tail of a story's canvas is made by the collator, which knows the canvas.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from arche_mdlm.training.data.answers import AnswerBuild, AnswerEncoder
from arche_mdlm.training.data.encoding import Encoder, in_order, one_thread_a_call
from arche_mdlm.training.data.formats import Format
from arche_mdlm.training.data.mixing import Mixture, open_mixture
from arche_mdlm.training.data.sources import DEFAULT_SOURCE, Source, open_source, split_of

__all__ = ["DEFAULT_SOURCE", "LAYOUTS", "DataSummary", "PreparedData", "prepare_data", "split_of", "split_windows"]

LAYOUTS = ("rows", "packed", "windows")
LONG_DOCUMENTS = ("drop", "chunk")
FORMAT_VERSION = 1  # raise it whenever the same settings give other rows: it is part of the cache key
BATCH_STORIES = 512  # tokenised and written together: this bounds the memory for sources of any size
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSummary:
    """What was prepared. Counts are of stories taken, unless they say otherwise.

    `tokens` are the ids of the stories taken, BOS and EOS counted; `bytes` the UTF-8 bytes of their texts; `sha256` is
    over their texts in order, a zero byte behind each (a story cut by the budget counts whole in both). `left_out` stories
    were too long for the layout `rows`, or `chunked`: cut into several rows; `short_out` were shorter than
    `min_characters` or empty, `null` had no text at all; `tail_tokens` are those of the last, incomplete row.
    """

    source: str
    revision: str | None
    split: str
    layout: str
    context_length: int
    rows: int
    stories: int
    left_out: int
    short_out: int
    tokens: int
    tail_tokens: int
    bytes: int
    sha256: str
    tokenizer_sha256: str
    cache_key: str
    chunked: int = 0
    null: int = 0

    def to_dict(self) -> dict:
        return asdict(self)


class PreparedData(NamedTuple):
    dataset: datasets.Dataset
    summary: DataSummary


def prepare_data(
    source: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase,
    *,
    layout: str = "rows",
    context_length: int,
    split: str = "train",
    text_column: str = "text",
    form: Format | None = None,
    weights: Sequence[float] = (),
    stopping: str = "first_exhausted",
    config: str | None = None,
    validation_fraction: float | None = None,
    max_tokens: int | None = None,
    min_characters: int = 0,
    long_documents: str = "drop",
    long_answers: str = "error",
    revision: str | None = None,
    streaming: bool = False,
    num_workers: int = 1,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = False,
) -> PreparedData:
    """Tokenise one split of `source` into rows of at most `context_length` tokens, or load them from the cache.

    Args:
        source, split, text_column, form, config, validation_fraction, revision, streaming: see `sources.open_source`.
        weights, stopping: of several sources that are interleaved; see `mixing.open_mixture`.
        tokenizer: a fast tokenizer; `rows` and `packed` need its BOS and EOS. A special token spelt out in a story
            is plain text, not that token.
        layout: "rows", "packed" or "windows" (see the module's head).
        max_tokens: a budget. Stories are taken in order and the first that would exceed it ends the reading; in
            `windows`, which know no stories, that one is cut at the budget.
        min_characters: stories with fewer characters, once stripped, are dropped; empty ones always are. The paper's
            "over 50 characters" is 51.
        long_documents: what the layout `rows` does with a story of more than `context_length` tokens: "drop" leaves it out,
            "chunk" cuts it into rows of `context_length`, each with a BOS in front; the EOS is behind the last one only.
        long_answers: what becomes of a prompt with an answer that have more than `context_length` tokens together: "error", or "drop"
            leaves it out.
        num_workers: threads that tokenise. The rows do not depend on it.
        cache_dir: default $ARCHE_MDLM_CACHE, else ~/.cache/arche_mdlm.
        progress: show a bar of stories.

    Returns:
        The memory-mapped `datasets.Dataset`, with `input_ids` as int32 lists, and its `DataSummary`.

    Raises:
        FileNotFoundError: the source is missing, or the Hub cannot be reached.
        OSError: the cache cannot be written (disk full, no permission); no partial files are left in it.
        ValueError: an argument out of range, unreadable data (naming file and line), or no story left.
    """
    _check_arguments(layout, context_length, max_tokens, min_characters, num_workers)
    if long_documents not in LONG_DOCUMENTS:
        raise ValueError(f"long_documents={long_documents!r} unknown; allowed: {', '.join(LONG_DOCUMENTS)}")
    chunk = long_documents == "chunk"
    if chunk and layout != "rows":
        raise ValueError(f"long_documents='chunk' is for layout='rows'; {layout!r} keeps every token")
    encoder = Encoder(tokenizer, layout)
    cache = Path(cache_dir or os.environ.get("ARCHE_MDLM_CACHE") or Path.home() / ".cache" / "arche_mdlm")
    form = Format(text=text_column) if form is None else form
    options: dict[str, Any] = {"split": split, "form": form, "validation_fraction": validation_fraction, "config": config,
                               "revision": revision, "streaming": streaming, "cache_dir": cache}  # fmt: skip
    stories = open_mixture(source, weights, stopping, **options) if weights else open_source(source, **options)
    settings = [FORMAT_VERSION, layout, context_length, max_tokens, min_characters, *(["chunk"] if chunk else [])]
    if form.kind != "text":
        settings += [getattr(tokenizer, "chat_template", None), long_answers]
    key = hashlib.sha256(json.dumps([stories.fingerprint(), encoder.sha256, settings]).encode()).hexdigest()[:32]
    folder = cache / "data" / key
    found = _load(folder)
    if found is None:
        build: Build | AnswerBuild = Build(stories, encoder, layout, context_length, max_tokens, min_characters, chunk)
        if isinstance(next((item for item in stories.items() if item is not None), ""), tuple):
            _check_answers(layout, long_documents)
            build = AnswerBuild(
                stories, AnswerEncoder(tokenizer, encoder), context_length, max_tokens, long_answers == "drop"
            )
        _write_atomically(folder, build, key, num_workers, progress)
        found = _load(folder)
        assert found is not None, folder
    # The key is about content: the rows may have been made from a copy of the file under another name.
    return PreparedData(found.dataset, replace(found.summary, source=stories.name))


def split_windows(
    dataset: datasets.Dataset, fraction: float = 0.05, seed: int = 42
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """(train, validation) of the paper: the first `int(fraction * n)` of `torch.randperm(n)` are for validation.

    The permutation comes from a generator of its own with `manual_seed(seed)`. Windows cut stories, so the halves of
    one story can end up on both sides: that is the paper's protocol, not ours (`validation_fraction` is).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie between 0 and 1")
    count = int(fraction * len(dataset))
    if count == 0:
        raise ValueError(f"fraction={fraction} of {len(dataset)} windows leaves none for validation")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    return dataset.select(order[count:]), dataset.select(order[:count])


def _check_arguments(layout: Any, context_length: Any, max_tokens: Any, min_characters: Any, num_workers: Any) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} unknown; allowed: {', '.join(LAYOUTS)}")
    least = {"context_length": 4, "max_tokens": 1, "min_characters": 0, "num_workers": 1}
    given = {
        "context_length": context_length,
        "max_tokens": max_tokens,
        "min_characters": min_characters,
        "num_workers": num_workers,
    }
    for name, value in given.items():
        if name == "max_tokens" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least[name]:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least[name]}")


def _check_answers(layout: str, long_documents: str) -> None:
    if layout != "rows":
        raise ValueError(
            f"layout={layout!r} does not support prompts: data with prompts or messages needs layout='rows'"
        )
    if long_documents == "chunk":
        raise ValueError(
            "long_documents='chunk' is for texts: a prompt and its answer cannot be split; see long_answers"
        )


class Build:
    """One pass over the stories: what is taken, how it is laid out, and the counts."""

    def __init__(
        self,
        stories: Source | Mixture,
        encoder: Encoder,
        layout: str,
        context_length: int,
        max_tokens: int | None,
        min_characters: int,
        chunk: bool,
    ) -> None:
        self.stories, self.encode, self.chunk = stories, encoder, chunk
        self.layout, self.context_length = layout, context_length
        self.max_tokens, self.min_characters = max_tokens, min_characters
        names = ("rows", "stories", "left_out", "chunked", "short_out", "null", "tokens", "tail_tokens", "bytes")
        self.counts = dict.fromkeys(names, 0)
        self.sha256 = hashlib.sha256()

    @property
    def features(self) -> datasets.Features:
        ids = datasets.List(datasets.Value("int32"))
        other = {"rows": {"num_bytes": datasets.Value("int32")}, "packed": {"document_ids": ids}, "windows": {}}
        return datasets.Features({"input_ids": ids, **other[self.layout]})

    def rows(self, num_workers: int, progress: bool) -> Iterator[dict]:
        documents = self._documents(num_workers, progress)
        laid_out = self._whole_rows(documents) if self.layout == "rows" else self._full_rows(documents)
        for row in laid_out:
            self.counts["rows"] += 1
            yield row
        if not self.counts["rows"]:
            raise ValueError(self._nothing_left())

    def _long_enough(self) -> Iterator[str]:
        for text in self.stories.items():
            if text is None:
                self.counts["null"] += 1
            elif not isinstance(text, str):
                raise ValueError(
                    "one of the sources has texts and another one prompts or messages: they cannot be mixed"
                )
            elif len(text) < max(1, self.min_characters):
                self.counts["short_out"] += 1
            else:
                yield text

    def _documents(self, num_workers: int, progress: bool) -> Iterator[tuple[np.ndarray, int]]:
        """(ids, bytes) of each story taken, up to the budget; of each piece of one that is cut."""
        encoded = in_order(self.encode, self._long_enough(), num_workers, BATCH_STORIES)
        for text, ids in tqdm(encoded, desc="tokenising", unit=" stories", disable=not progress):
            too_long = self.layout == "rows" and len(ids) > self.context_length
            if too_long and not self.chunk:
                self.counts["left_out"] += 1
                continue
            pieces = self.encode.pieces(text, ids, self.context_length) if too_long else None
            tokens = len(ids) if pieces is None else sum(len(part) for part, _ in pieces)
            left = tokens if self.max_tokens is None else self.max_tokens - self.counts["tokens"]
            if tokens > left:
                if self.layout != "windows" or left == 0:
                    return
                ids, tokens = ids[:left], left
            raw = text.encode("utf-8")
            self.sha256.update(raw + b"\0")
            self.counts["stories"] += 1
            self.counts["chunked"] += too_long
            self.counts["tokens"] += tokens
            self.counts["bytes"] += len(raw)
            yield from [(ids, len(raw))] if pieces is None else pieces

    def _whole_rows(self, documents: Iterable[tuple[np.ndarray, int]]) -> Iterator[dict]:
        for ids, num_bytes in documents:
            yield {"input_ids": ids, "num_bytes": num_bytes}

    def _full_rows(self, documents: Iterable[tuple[np.ndarray, int]]) -> Iterator[dict]:
        """Rows of exactly `context_length`, cut wherever they are full; a row's first story may be a story's rest."""
        ids, owners = np.empty(0, np.int32), np.empty(0, np.int32)
        size = self.context_length
        for number, (tokens, _) in enumerate(documents):
            ids = np.concatenate([ids, tokens])
            owners = np.concatenate([owners, np.full(len(tokens), number, np.int32)])
            full = len(ids) // size * size
            for start in range(0, full, size):
                row = {"input_ids": ids[start : start + size]}
                if self.layout == "packed":
                    row["document_ids"] = owners[start : start + size] - owners[start]
                yield row
            ids, owners = ids[full:], owners[full:]
        self.counts["tail_tokens"] = len(ids)

    def _nothing_left(self) -> str:
        counts, source = self.counts, f"source={self.stories.name!r}, split={self.stories.split!r}"
        reasons = {
            "null": "have no text (null)",
            "short_out": f"are shorter than min_characters={self.min_characters}"
            if self.min_characters
            else "are empty",
            "left_out": f"are longer than context_length={self.context_length} tokens",
            "stories": f"have {counts['tokens']} tokens in all, which fill no row of {self.context_length} ({self.layout})",
        }
        found = [f"{counts[name]:,} {reason}" for name, reason in reasons.items() if counts[name]]
        if not found:
            if self.max_tokens is None:
                return f"{source}: empty, it does not contain a story"
            return f"{source}: no row left; its first text has more than max_tokens={self.max_tokens} tokens"
        way_out = ""
        if counts["left_out"]:
            way_out = (
                "; --layout packed fills rows with texts one after another, --long_documents chunk cuts each long text "
                "into rows, or give a larger data.context_length"
            )
        return f"{source}: no row left; of its texts {', '.join(found)}{way_out}"


# --- the cache: <cache>/data/<key>/{rows.arrow, summary.json} ---------------------------------------------------------


def _load(folder: Path) -> PreparedData | None:
    """What is cached in `folder`; None if it is empty or unreadable."""
    if not folder.is_dir():
        return None
    try:
        summary = DataSummary(**json.loads((folder / "summary.json").read_text(encoding="utf-8")))
        dataset = datasets.Dataset.from_file(str(folder / "rows.arrow"))
        if len(dataset) != summary.rows:
            raise ValueError(f"{len(dataset)} rows instead of {summary.rows}")
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        log.warning("the cache %s is damaged (%s) and will be rebuilt", folder, error)
        return None
    return PreparedData(dataset, summary)


def _write_atomically(folder: Path, build: Build | AnswerBuild, key: str, num_workers: int, progress: bool) -> None:
    """Build beside `folder` and rename: an interrupted preparation leaves nothing that looks like a cache."""
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
        with one_thread_a_call():
            _write_rows(work / "rows.arrow", build, num_workers, progress)
        summary = DataSummary(
            source=build.stories.name,
            revision=build.stories.revision,
            split=build.stories.split,
            layout=build.layout,
            context_length=build.context_length,
            **build.counts,
            sha256=build.sha256.hexdigest(),
            tokenizer_sha256=build.encode.sha256,
            cache_key=key,
        )
        (work / "summary.json").write_text(json.dumps(summary.to_dict(), indent=2) + "\n", encoding="utf-8")
        if folder.exists() and _load(folder) is None:
            shutil.rmtree(folder)
        try:
            os.replace(work, folder)
        except OSError:  # onto a filled folder: another process was faster, and its rows are the same
            if _load(folder) is None:
                raise
    except FileNotFoundError:
        raise  # of the source, in its own words
    except OSError as error:  # disk full, no permission, a file in the way
        raise OSError(
            f"could not prepare data in the cache {folder.parent}: {error}; no partial files are left "
            "(set ARCHE_MDLM_CACHE to use another folder)"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _write_rows(path: Path, build: Build | AnswerBuild, num_workers: int, progress: bool) -> None:
    schema = build.features.arrow_schema
    rows = build.rows(num_workers, progress)
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while batch := list(itertools.islice(rows, BATCH_STORIES)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
