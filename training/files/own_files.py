"""Which files of a folder we have written: a hidden list of their fingerprints beside them.

Other files are never overwritten or removed. A file that was changed after we wrote it counts as the user's.
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

MANIFEST = ".arche-mdlm.json"
_WHOLE = 2**24  # larger files are identified by their size, first and last megabyte
_PART = 2**20


class OutputFolder:
    """A folder into which a command writes files by name, one after another, each atomically.

    Args:
        path: the folder; it is made when the first file is written.
        names: all files that may be written, relative to the folder.
    """

    def __init__(self, path: Path, names: Iterable[str]):
        self.path, self.names = Path(path), tuple(names)

    def check(self) -> None:
        """Before any work: ValueError if the folder cannot be written, or one of the files is there and not ours."""
        check_writable(self.path)
        written = read_manifest(self.path)
        for name in self.names:
            path = self.path / name
            if os.path.lexists(path) and not _is_own(path, written.get(name, [])):
                raise ValueError(
                    f"{path} is there already and was not written by this command, or has changed since: move it away, "
                    "or name another output"
                )

    def write(self, name: str, write: Callable[[Path], object]) -> Path:
        """Let `write(aside)` fill a file, then rename it to `name`; the path. Raises what `write` does, and as `check`."""
        if name not in self.names:
            raise ValueError(f"name={name!r} is not among the files of this folder: {', '.join(self.names)}")
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        OutputFolder(self.path, [name]).check()
        aside = path.with_name(f".{uuid.uuid4().hex[:8]}.part.{path.name}")  # the suffix tells libraries the format
        try:
            write(aside)
            written = read_manifest(self.path)
            # The list has both fingerprints while the file is replaced, so after a crash in between it counts as ours.
            written[name] = [*written.get(name, [])[-1:], fingerprint(aside)]
            _write_manifest(self.path, written)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write `text` in UTF-8; the path."""
        return self.write(name, lambda aside: aside.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> Path:
        """Write `value` as indented JSON; the path."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_writable(folder: Path, name: str = "") -> None:
    """ValueError where no file can be made in `folder`, or `folder` cannot be made. Tries it, and leaves nothing.

    `name`: the option that names the folder, for the message.
    """
    folder, where = Path(folder), f"{name} {folder}".strip()
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if place.exists() and not place.is_dir():
        raise ValueError(f"cannot write to {where}: {place} is a file; give a folder")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        raise ValueError(f"cannot write to {where}: {place}: {error.strerror or error}") from error


def check_new_folder(folder: Path, name: str = "destination") -> None:
    """Before any work: ValueError for a folder that is there and not empty, or cannot be written."""
    folder = Path(folder)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{name}={str(folder)!r} is there already and not empty; name a new folder")
    check_writable(folder)


def read_manifest(folder: Path) -> dict[str, list[str]]:
    """Fingerprints of what was written into `folder`, by relative name; empty if the list is missing."""
    try:
        files = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name): [str(value) for value in values] for name, values in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def record_all(folder: Path) -> None:
    """List all files in `folder`, which we alone have filled."""
    _write_manifest(folder, {name: [fingerprint(Path(folder) / name)] for name in _files(folder) if name != MANIFEST})


def foreign_files(folder: Path) -> list[str]:
    """Everything in `folder` that we did not write or that has changed since: files, links and empty folders, by relative name."""
    written = read_manifest(folder)
    listed = (name for name in _files(folder) if not (name == MANIFEST and written))
    return [name for name in listed if not _is_own(Path(folder) / name, written.get(name, []))]


def carry_over(old: Path, new: Path) -> None:
    """Link or copy the user's files in `old` to `new`; as NAME.kept where `new` has a file of that name."""
    for name in foreign_files(old):
        target = Path(new) / name
        number = 1
        while os.path.lexists(target) and not (target.is_dir() and (Path(old) / name).is_dir()):
            target = (Path(new) / name).with_name(f"{Path(name).name}.kept{number if number > 1 else ''}")
            number += 1
        if (Path(old) / name).is_dir() and not (Path(old) / name).is_symlink():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(Path(old) / name, target, follow_symlinks=False)
        except OSError:  # a file system without such links
            shutil.copy2(Path(old) / name, target, follow_symlinks=False)


def remove_own(folder: Path, own: Callable[[str], bool] = lambda name: False) -> None:
    """Remove the files that we have written in `folder`, and the folder if it is empty then.

    `own(name)` says what is ours in a folder without a list, from a version that wrote none.
    """
    folder = Path(folder)
    written = read_manifest(folder)
    foreign = set(foreign_files(folder)) if written else {name for name in _files(folder) if not own(name)}
    for name in _files(folder):
        if name not in foreign:
            with suppress(
                OSError
            ):  # gone already, as another process is at it too; or a folder that somebody has filled
                (folder / name).rmdir() if name not in written and (folder / name).is_dir() else (
                    folder / name
                ).unlink()
                for place in list((folder / name).parents)[: name.count("/")]:
                    place.rmdir()
    with suppress(OSError):  # not empty
        folder.rmdir()


def fingerprint(path: Path) -> str:
    """sha256 of a file; of a large one its size, first and last megabyte."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
        else:
            digest.update(f"{size}:".encode() + file.read(_PART))
            file.seek(-_PART, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def _is_own(path: Path, fingerprints: list[str]) -> bool:
    return bool(fingerprints) and path.is_file() and not path.is_symlink() and fingerprint(path) in fingerprints


def _files(folder: Path) -> list[str]:
    """Files, links and empty folders, by relative name."""
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [os.path.join(place, name) for name in (*files, *links)]
        if not files and not folders and Path(place) != Path(folder):
            found.append(place)
    return sorted(Path(path).relative_to(folder).as_posix() for path in found)


def _write_manifest(folder: Path, files: dict[str, list[str]]) -> None:
    aside = Path(folder) / f".{uuid.uuid4().hex[:8]}.part{MANIFEST}"
    try:
        about = "The files that arche-mdlm has written here; it replaces or removes no others."
        aside.write_text(json.dumps({"about": about, "files": files}, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, Path(folder) / MANIFEST)
    finally:
        aside.unlink(missing_ok=True)
