"""Local files, read one row at a time: txt, jsonl, json, csv, each also as .gz or .zst, and parquet.

Every reader is a generator that holds one row (for `.json` arrays: one file) in memory, and says where in which file
something is wrong. A null is given as None.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from arche_mdlm.training.data.formats import Format, Item

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
PACKINGS = {".gz": "gzip", ".zst": "Zstandard"}
PACKED = tuple(suffix + packing for packing in PACKINGS for suffix in SUFFIXES if suffix != ".parquet")
STORY_END = "<|endoftext|>"
_LONGEST_FIELD = 2**31 - 1  # bytes of a CSV field; Python's own limit is 131,072


def kind_of(path: Path) -> str | None:
    """The suffix of a file that can be read, that of its packing taken off; None for any other."""
    name = path.name.lower()
    found = next((suffix for suffix in (*SUFFIXES, *PACKED) if name.endswith(suffix)), None)
    return found and found.removesuffix(_packing(path) or "")


def _packing(path: Path) -> str | None:
    return next((packing for packing in PACKINGS if path.name.lower().endswith(packing)), None)


def read_items(path: Path, form: Format) -> Iterator[Item | None]:
    """The items of a file, in its order; ValueError, naming file and line, for unreadable content."""
    readers: dict[str | None, Callable[[], Iterator[Item | None]]] = {
        ".txt": lambda: _of_text(path, form),
        ".csv": lambda: _read_csv(path, form),
        ".parquet": lambda: _read_parquet(path, form),
    }
    with readable(path):
        yield from readers.get(kind_of(path), lambda: _read_json(path, form))()


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """ValueError, naming the file, where a packed file is damaged or ends too soon."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}") from None
    except OSError as error:
        if _packing(path) != ".zst" or error.errno is not None:  # an error of the system has a number
            raise
        raise ValueError(f"{path} is not a complete Zstandard file: {error}") from None


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked."""
    if _packing(path) == ".zst":
        import pyarrow as pa

        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd")))
    return cast(BinaryIO, gzip.open(path, "rb") if _packing(path) else path.open("rb"))


def items_of(rows: Iterator[tuple[object, str]], form: Format) -> Iterator[Item | None]:
    """What (row, place) pairs are; the columns of the first row say the kind where it is open."""
    for row, where in rows:
        if form.kind == "auto" and isinstance(row, dict):
            form = form.resolved(list(row), where)
        yield form.read(row, where)


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


def _of_text(path: Path, form: Format) -> Iterator[Item | None]:
    """Stories have no columns: a text file is a text whatever the names of the columns are, but no prompts and no messages."""
    if form.kind not in ("auto", "text") or "{" in form.text:
        asked = f"data.format={form.kind!r}" if form.kind != "text" else f"data.template={form.text!r}"
        raise ValueError(f"{path} is a text file, which has no columns, but {asked} is set")
    yield from _read_txt(path)


def _read_json(path: Path, form: Format) -> Iterator[Item | None]:
    yield from items_of(_json_rows(path), form)


def _json_rows(path: Path) -> Iterator[tuple[object, str]]:
    """JSON lines, or one array of objects (recognised by its first character)."""
    with open_bytes(path) as file:
        is_array = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if is_array:
        try:
            rows = json.loads("".join(_lines(path)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: invalid JSON ({error.msg})") from None
        for number, row in enumerate(rows, 1):
            yield row, f"{path}, entry {number}"
        return
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            why = "the file ends mid-line" if not line.endswith("\n") else "invalid JSON"
            raise ValueError(f"{path}, line {number}: {why} ({error.msg}, column {error.colno})") from None
        yield row, f"{path}, line {number}"


def _read_csv(path: Path, form: Format) -> Iterator[Item | None]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            cells = {key: value for key, value in row.items() if key is not None}
            form = form.resolved(list(cells), where)
            for column in form.columns():
                if column in cells and cells[column] is None:
                    raise ValueError(f"{where}: the line ends before the column {column!r}")
            yield form.read(_without_json(cells, form, where), where)
    except csv.Error as error:
        # DictReader's own line_num is one record behind when its reader fails
        raise ValueError(f"{path}, line {reader.reader.line_num}: invalid CSV ({error})") from None


def _without_json(cells: dict[str, str], form: Format, where: str) -> dict[str, object]:
    """A row of CSV whose messages, if it has any, are JSON."""
    if form.kind != "messages":
        return dict(cells)
    try:
        return {**cells, form.messages: json.loads(cells[form.messages])}
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: column {form.messages!r} is not a JSON list of messages ({error.msg})") from None


def _read_parquet(path: Path, form: Format) -> Iterator[Item | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            form = form.resolved(names, str(path))
            tops = list(dict.fromkeys(c if c in names else c.split(".")[0] for c in form.columns()))
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=tops):
                for row in batch.to_pylist():
                    number += 1
                    yield form.read(row, f"{path}, row {number}")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 in column {form.columns()[0]!r}: {error}") from None
