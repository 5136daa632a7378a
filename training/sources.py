"""Where stories come from: a Hub dataset, or local txt, jsonl, json, csv and parquet files, read one story at a time.

Every reader is a generator that holds one story (for `.json` arrays: one file) in memory, and says where in which file
something is wrong.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_SOURCE = "roneneldan/TinyStories"
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
STORY_END = "<|endoftext|>"
OWN_SPLITS = ("train", "validation")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """One split of one source. `files` is empty for a Hub dataset, whose `revision` is then a commit."""

    name: str
    split: str
    text_column: str = "text"
    files: tuple[Path, ...] = ()
    validation_fraction: float | None = None
    revision: str | None = None
    streaming: bool = False

    def fingerprint(self) -> str:
        """What the stories depend on, as text: content hashes of local files, or the Hub id and commit."""
        if self.files:
            data = [(file.suffix.lower(), _file_hash(file)) for file in self.files]
        else:
            data = [self.name, self.revision]
        # The hash split reads the whole of `train` and keeps a part; else the split is part of what is read.
        return json.dumps([data, self.split, self.text_column, self.validation_fraction])

    def __iter__(self) -> Iterator[str]:
        """The stories of the split, in the source's order, without white space around them."""
        stories = _read_files(self) if self.files else _read_hub(self)
        for text in stories:
            text = text.strip()
            if self.validation_fraction is None or split_of(text, self.validation_fraction) == self.split:
                yield text


def open_source(
    source: str | os.PathLike,
    *,
    split: str = "train",
    text_column: str = "text",
    validation_fraction: float | None = None,
    revision: str | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
) -> Source:
    """Find `source` and its `split`; iterating over the result gives the stories.

    Args:
        source: a local file, a folder that holds `{split}.jsonl` (or another known suffix, or shards named
            `{split}-*`), or a Hub dataset id. What exists locally wins.
        split: "train" or "validation"; folders and the Hub may have others.
        text_column: the field of jsonl, json, csv, parquet and Hub data that holds the story.
        validation_fraction: None: the source's own splits are used, and a single file is all "train". A fraction: the
            source's `train` stories are split by the hash of their text, so that equal stories are on the same side.
        revision: a Hub branch, tag or commit.
        streaming: read a Hub dataset over the network without downloading it first. Local files are always streamed.
        cache_dir: where the last known commit of a Hub id is kept, for use without a network.

    Raises:
        FileNotFoundError, ValueError: naming the argument, its value, and what is allowed.
    """
    if validation_fraction is not None:
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction={validation_fraction} must lie between 0 and 1, or be None")
        if split not in OWN_SPLITS:
            raise ValueError(f"split={split!r} unknown: a split by hash has {' and '.join(OWN_SPLITS)}")
    name, own_split = os.path.expanduser(source), split if validation_fraction is None else "train"
    if not name:
        raise ValueError("source='' is empty: give a file, a folder or a Hub id")
    files: tuple[Path, ...] = ()
    if Path(name).is_dir():
        files = _split_files(Path(name), own_split)
    elif Path(name).is_file():
        files = (_single_file(Path(name), own_split),)
    elif Path(name).suffix.lower() in SUFFIXES or not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"source={name!r} does not exist: give a file ({', '.join(SUFFIXES)}), folder or Hub id"
        )
    else:
        revision = _hub_commit(name, revision, cache_dir)
    return Source(name, split, text_column, files, validation_fraction, revision, streaming)


def split_of(text: str, validation_fraction: float) -> str:
    """ "train" or "validation" by the SHA-256 of the stripped text: the same story is never in both."""
    digest = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < validation_fraction * 2**64 else "train"


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _single_file(path: Path, split: str) -> Path:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"source={str(path)!r} has the suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
    if split != "train":
        raise ValueError(
            f"split={split!r}: the single file {str(path)!r} is all 'train'; "
            "give validation_fraction=0.05 to split it by story, or a file for each split"
        )
    return path


def _split_files(folder: Path, split: str) -> tuple[Path, ...]:
    """The one `{split}.suffix`, or the shards `{split}-*.suffix` in the order of their names."""
    found = {}
    for suffix in SUFFIXES:
        stem = glob.escape(str(folder / split))
        paths = sorted(glob.glob(stem + suffix)) or sorted(glob.glob(f"{stem}-*{suffix}"))
        if paths:
            found[suffix] = tuple(Path(path) for path in paths)
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise FileNotFoundError(
            f"source={str(folder)!r} has no file for split={split!r} "
            f"({', '.join(split + suffix for suffix in SUFFIXES)} are looked for); there is: {there}"
        )
    if len(found) > 1:
        raise ValueError(f"source={str(folder)!r} has split {split!r} as {', '.join(found)}: name the file itself")
    return next(iter(found.values()))


# --- local files ------------------------------------------------------------------------------------------------------


def _read_files(source: Source) -> Iterator[str]:
    for path in source.files:
        suffix = path.suffix.lower()
        if suffix == ".txt":
            yield from _read_txt(path)
        else:
            reader = {".csv": _read_csv, ".parquet": _read_parquet}.get(suffix, _read_json)
            yield from reader(path, source.text_column)


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, decoded one by one, so that an error can name the byte."""
    position = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at position {position + error.start} "
                    f"(line {number}); convert the file to UTF-8"
                ) from None
            yield line.removeprefix("\ufeff") if number == 1 else line
            position += len(raw)


def _read_txt(path: Path) -> Iterator[str]:
    """Stories end at `<|endoftext|>` where the file has any (they may then hold blank lines), else at blank lines."""
    with path.open("rb") as file:
        marked = any(STORY_END.encode() in line for line in file)
    story: list[str] = []
    for line in _lines(path):
        if marked:
            *ended, rest = line.split(STORY_END)
            for part in ended:
                yield "".join([*story, part])
                story = []
            story.append(rest)
        elif line.strip():
            story.append(line)
        elif story:
            yield "".join(story)
            story = []
    if story:
        yield "".join(story)


def _read_json(path: Path, column: str) -> Iterator[str]:
    """JSON lines, or one array of objects (recognised by its first character)."""
    with path.open("rb") as file:
        is_array = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if is_array:
        try:
            rows = json.loads("".join(_lines(path)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: invalid JSON ({error.msg})") from None
        for number, row in enumerate(rows, 1):
            yield _field(row, column, f"{path}, entry {number}")
        return
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            why = "the file ends mid-line" if not line.endswith("\n") else "invalid JSON"
            raise ValueError(f"{path}, line {number}: {why} ({error.msg}, column {error.colno})") from None
        yield _field(row, column, f"{path}, line {number}")


def _read_csv(path: Path, column: str) -> Iterator[str]:
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for row in reader:
            yield _field(row, column, f"{path}, line {reader.line_num}")
    except csv.Error as error:
        # DictReader's own line_num is one record behind when its reader fails
        raise ValueError(f"{path}, line {reader.reader.line_num}: invalid CSV ({error})") from None


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise ValueError(_no_column(column, names, str(path)))
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _text(value, column, f"{path}, row {number}")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no readable parquet file: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 in column {column!r}: {error}") from None


def _field(row: object, column: str, where: str) -> str:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with the column {column!r}, got {type(row).__name__}")
    if column not in row:
        raise ValueError(_no_column(column, [key for key in row if key is not None], where))
    return _text(row[column], column, where)


def _text(value: object, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} holds {type(value).__name__} ({value!r:.40}), not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, "\ud800"
        raise ValueError(f"{where}: column {column!r} is not UTF-8 text: {error.reason} at {error.start}") from None
    return value


def _no_column(column: str, there: list[str], where: str) -> str:
    return f"{where}: no column text_column={column!r}; the columns there are: {', '.join(map(str, there))}"


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _hub_commit(name: str, revision: str | None, cache_dir: str | Path | None) -> str:
    """The commit of a Hub dataset: asked for, or without a network the one that was found last time."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    memory = Path(cache_dir or ".") / "hub" / f"{name.replace('/', '--')}@{(revision or 'main').replace('/', '--')}"
    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except RevisionNotFoundError:
        raise ValueError(f"revision={revision!r} unknown: the Hub dataset {name!r} has no such revision") from None
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise FileNotFoundError(
            f"source={name!r} is neither a local file or folder nor a Hub dataset you can read ({type(error).__name__})"
        ) from None
    except Exception as error:  # the client raises many kinds without a network: httpx, OSError, its own
        if cache_dir is not None and memory.is_file():
            return memory.read_text(encoding="utf-8")
        if re.fullmatch("[0-9a-f]{40}", revision or ""):
            return revision
        raise FileNotFoundError(_unreachable(name, error)) from error
    if cache_dir is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(commit, encoding="utf-8")
    return commit


def _read_hub(source: Source) -> Iterator[str]:
    import datasets

    split = source.split if source.validation_fraction is None else "train"
    try:
        builder = datasets.load_dataset_builder(source.name, revision=source.revision)
        # Without a network `datasets` falls back to whatever commit it has, and only logs it.
        if builder.hash != source.revision:
            raise OSError(f"only another commit than {source.revision} is in the cache: {builder.hash}")
        if source.streaming:
            data = builder.as_streaming_dataset(split)
        else:
            builder.download_and_prepare()
            data = builder.as_dataset(split)
    except ValueError as error:
        raise ValueError(f"source={source.name!r}, split={split!r}: {error}") from error
    except Exception as error:
        raise FileNotFoundError(_unreachable(source.name, error)) from error
    if data.column_names is not None:  # unknown before the first row when streaming some formats
        if source.text_column not in data.column_names:
            raise ValueError(_no_column(source.text_column, data.column_names, source.name))
        data = data.select_columns([source.text_column])
    for number, row in enumerate(data, 1):
        yield _field(row, source.text_column, f"{source.name}, row {number}")


def _unreachable(name: str, error: Exception) -> str:
    return (
        f"source={name!r} is no local file or folder, and could not be read from the Hub "
        f"({type(error).__name__}: {str(error)[:200]}); without a network give a local file "
        f"({', '.join(SUFFIXES)}) or folder instead"
    )
