"""A file of samples, written atomically; the work can be resumed, and divided among processes.

FILE.settings.json says what is written, FILE.partial (and FILE.partial.1, ..., one a further process) holds whole batches as
they are done, and FILE appears by a rename once everything is there.
"""

import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arche_mdlm.training.files.checkpointing import write_json_atomically
from arche_mdlm.training.files.own_files import check_writable

FORMAT = "samples of arche-mdlm, 1"  # tells our settings file from somebody else's of that name


def read_records(path: Path) -> list[dict]:
    """JSON lines. Their ends are line feeds: texts may hold other characters that end a line, such as U+2028."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


@dataclass(frozen=True)
class SampleFile:
    """`num_samples` JSON lines with a field `index`, made in batches of `batch_size`, all from the same `settings`."""

    path: Path
    num_samples: int
    batch_size: int
    settings: dict = field(default_factory=dict)  # only `begin` needs them

    @property
    def settings_path(self) -> Path:
        return self.path.with_name(self.path.name + ".settings.json")

    def partial_path(self, process: int = 0) -> Path:
        return self.path.with_name(self.path.name + ".partial" + (f".{process}" if process else ""))

    def partials(self) -> list[Path]:
        own = self.partial_path()
        others = re.compile(re.escape(own.name) + r"\.\d+")
        found = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
        return [own] * own.exists() + sorted(path for path in found if others.fullmatch(path.name))

    def begin(self, overwrite: bool = False) -> list[range] | None:
        """Make ready to write; the batches that are still to be made, or None if the file is whole already.

        To be called by one process, before any writes. Raises ValueError where something else is in the way; also with
        `overwrite`, which deletes only what was written by an earlier `begin` at this path.
        """
        check_writable(self.path.parent)
        self._check_own()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in (self.path, *self.partials(), self.settings_path):
                path.unlink(missing_ok=True)
        if self.path.exists() or any(path.stat().st_size for path in self.partials()):
            self._check_settings()
        if self.path.exists():
            return None
        write_json_atomically(self.settings_path, {"format": FORMAT, **self.settings})
        done, todo = self._done(), []
        for first in range(0, self.num_samples, self.batch_size):
            batch = range(first, min(first + self.batch_size, self.num_samples))
            if not all(index in done for index in batch):
                # Made anew as a whole: its rows were computed together, and are to come out as in one sitting.
                todo.append(batch)
                for index in batch:
                    done.pop(index, None)
        others = self.partials()[1:] if self.partial_path().exists() else self.partials()
        _write_atomically(self.partial_path(), (done[index] for index in sorted(done)))
        for path in others:
            path.unlink()
        return todo

    def append(self, records: Sequence[dict], process: int = 0) -> None:
        """Add a batch; it is on the disk when this returns."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with self.partial_path(process).open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Put all processes' batches in order and rename; RuntimeError if a sample is missing."""
        done = self._done()
        missing = [index for index in range(self.num_samples) if index not in done]
        if missing:
            raise RuntimeError(f"{self.path}: {len(missing)} samples are missing, the first is number {missing[0]}")
        partials = self.partials()
        _write_atomically(self.path, (done[index] for index in range(self.num_samples)))
        for path in partials:
            path.unlink(missing_ok=True)

    def num_done(self) -> int:
        return len(self._done())

    def _done(self) -> dict[int, str]:
        """Line by index, of all processes; a line torn by a kill, and everything behind it, is ignored."""
        done: dict[int, str] = {}
        for path in self.partials():
            for line in path.read_bytes().splitlines(keepends=True):
                index = _index(line)
                if index is None:
                    break
                done[index] = line.decode()
        return {index: line for index, line in done.items() if index < self.num_samples}

    def _check_own(self) -> None:
        """ValueError for a file at one of our paths that we have not written (our settings file beside it is missing)."""
        there = [path for path in (self.path, *self.partials(), self.settings_path) if os.path.lexists(path)]
        if there and self._found() is None:
            raise ValueError(
                f"{there[0]} is there already, but not written by this command ({self.settings_path.name} is missing): "
                "move it away, or name another --output"
            )

    def _found(self) -> dict | None:
        """The settings of an earlier file of ours; None without one."""
        try:
            found = json.loads(self.settings_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("format") == FORMAT else None

    def _check_settings(self) -> None:
        name = self.path if self.path.exists() else self.partials()[0]
        way_out = "give --overwrite to delete it and start over, or another --output"
        found, wanted = self._found() or {}, json.loads(json.dumps({"format": FORMAT, **self.settings}))
        for key in sorted(found.keys() | wanted.keys()):
            old, new = found.get(key), wanted.get(key)
            if old != new:
                raise ValueError(f"{name} was written with {key}={old!r}, not {new!r}: {way_out}")


def _index(line: bytes) -> int | None:
    """The field `index` of a whole line; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        index = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError):  # ValueError: neither JSON nor UTF-8
        return None
    return index if isinstance(index, int) and index >= 0 else None


def _write_atomically(path: Path, lines: Iterable[str]) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
