"""Local text files, read one text at a time: txt, jsonl, json, csv, each also gzipped, and parquet.

Every reader is a generator that holds one text (for `.json` arrays: one file) in memory, and says where in which file
something is wrong. A null is given as None.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
ZIPPED = tuple(suffix + ".gz" for suffix in SUFFIXES if suffix != ".parquet")
STORY_END = "<|endoftext|>"
_LONGEST_FIELD = 2**31 - 1  # bytes of a CSV field; Python's own limit is 131,072


def kind_of(path: Path) -> str | None:
    """The suffix of a file that can be read, ".gz" taken off; None for any other."""
    name = path.name.lower()
    found = next((suffix for suffix in (*SUFFIXES, *ZIPPED) if name.endswith(suffix)), None)
    return found and found.removesuffix(".gz")


def read_texts(path: Path, column: str) -> Iterator[str | None]:
    """The texts of a file, in its order; ValueError, naming file and line, for unreadable content."""
    readers: dict[str | None, Callable[[], Iterator[str | None]]] = {
        ".txt": lambda: _read_txt(path),
        ".csv": lambda: _read_csv(path, column),
    }
    readers |= {".parquet": lambda: _read_parquet(path, column)}
    try:
        yield from readers.get(kind_of(path), lambda: _read_json(path, column))()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}") from None


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unzipped."""
    return cast(BinaryIO, gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb"))


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, decoded one by one, so that an error can name the byte."""
    position = 0
    with open_bytes(path) as file:
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
    with open_bytes(path) as file:
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


def _read_json(path: Path, column: str) -> Iterator[str | None]:
    """JSON lines, or one array of objects (recognised by its first character)."""
    with open_bytes(path) as file:
        is_array = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if is_array:
        try:
            rows = json.loads("".join(_lines(path)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: invalid JSON ({error.msg})") from None
        for number, row in enumerate(rows, 1):
            yield text_of(row, column, f"{path}, entry {number}")
        return
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            why = "the file ends mid-line" if not line.endswith("\n") else "invalid JSON"
            raise ValueError(f"{path}, line {number}: {why} ({error.msg}, column {error.colno})") from None
        yield text_of(row, column, f"{path}, line {number}")


def _read_csv(path: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if column in row and row[column] is None:
                raise ValueError(f"{where}: the line ends before the column {column!r}")
            if column not in row:
                raise ValueError(no_column(column, [key for key in row if key is not None], where))
            yield _checked(row[column], column, where)
    except csv.Error as error:
        # DictReader's own line_num is one record behind when its reader fails
        raise ValueError(f"{path}, line {reader.reader.line_num}: invalid CSV ({error})") from None


def _read_parquet(path: Path, column: str) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            top = column if column in names else column.split(".")[0]
            if top not in names:
                raise ValueError(no_column(column, names, str(path)))
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=[top]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield text_of({top: value}, column, f"{path}, row {number}")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 in column {column!r}: {error}") from None


def text_of(row: object, column: str, where: str) -> str | None:
    """The field `column` of a row, None for a null; `story.text` is the field `text` of the object `story`.

    Raises:
        ValueError: naming `where`, for a field that is missing or not a text.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with the column {column!r}, got {type(row).__name__}")
    value: object = row
    for name in [column] if column in row else column.split("."):
        if value is None:  # a null object counts as a null text
            return None
        if not isinstance(value, dict) or name not in value:
            raise ValueError(no_column(column, list(_paths(row)), where))
        value = value[name]
    return None if value is None else _checked(value, column, where)


def _paths(row: dict, prefix: str = "") -> Iterator[str]:
    """The fields of a row, those of objects by dotted path."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _checked(value: object, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} holds {type(value).__name__} ({value!r:.40}), not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, "\ud800"
        raise ValueError(f"{where}: column {column!r} is not UTF-8 text: {error.reason} at {error.start}") from None
    return value


def no_column(column: str, there: list[str], where: str) -> str:
    """The error message for a missing field."""
    return f"{where}: no column text_column={column!r}; the columns there are: {', '.join(map(str, there))}"
