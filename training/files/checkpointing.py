"""Atomic checkpoints: written to a temporary folder, renamed, rotated, the best one kept."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from arche_mdlm.training.files.own_files import carry_over, record_all, remove_own

_NAME = re.compile(r"checkpoint-(\d+)$")
_LEFT = re.compile(r"\.(?P<name>checkpoint-\d+)\.[0-9a-f]{8}\.(?P<kind>part|old)")
STATE_FILE = "trainer_state.json"
# Of a checkpoint from before folders had a list of what was written.
_WRITTEN = {STATE_FILE, "optimizer.pt", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json", "special_tokens_map.json", "model.safetensors.index.json"}  # fmt: skip
_WRITTEN_LIKE = re.compile(r"\w+_mdlm\.py|model-\d+-of-\d+\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read."""


def write_folder_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write(aside)` fill a new folder beside `folder`, then put it in its place with renames.

    A crash at any moment leaves the old folder or the new one, never a mixture. Files in the old folder that we have not
    written, or that have changed since, are in the new one too (as NAME.kept where a new file has their name). Raises
    CheckpointError (disk full, no permission, ...) after what was half written has been removed.
    """
    folder = Path(folder).resolve()  # where a link points: the link stays
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"could not write {folder}: a file of that name exists; it is unchanged")
    try:
        aside.mkdir(parents=True)
        write(aside)
        record_all(aside)
        _sync(aside)
        if folder.exists():
            carry_over(folder, aside)
            old = aside.with_suffix(".old")
            os.replace(folder, old)
            try:
                os.replace(aside, folder)
            except BaseException:
                os.replace(old, folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(aside, folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if _is_write_failure(error):
            raise CheckpointError(f"could not write {folder}: {error}; what was there before is untouched") from error
        raise


def write_json_atomically(path: Path, value: Any) -> None:
    """`value` as JSON at `path`, never half of it; CheckpointError where it cannot be written."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise CheckpointError(f"could not write {path}: {error}; what was there before is untouched") from error
    finally:
        aside.unlink(missing_ok=True)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    if not Path(output_dir).is_dir():
        return []
    found = [p for p in Path(output_dir).iterdir() if _NAME.match(p.name) and (p / STATE_FILE).is_file()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written, from its name."""
    found = _NAME.match(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1])


def read_state(checkpoint: Path) -> dict:
    """The run's state beside the weights; CheckpointError if missing or damaged."""
    path = Path(checkpoint) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"{checkpoint} is not a checkpoint of a run: {STATE_FILE} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint of a run; files that others have put into its folder stay."""
    remove_own(checkpoint, lambda name: name in _WRITTEN or bool(_WRITTEN_LIKE.fullmatch(name)))


def rotate(output_dir: Path, keep: int, kept_steps: Collection[int | None]) -> None:
    """Delete all but the newest `keep` checkpoints and those of `kept_steps`; also half-written ones of killed runs."""
    checkpoints = list_checkpoints(output_dir)
    for checkpoint in checkpoints[:-keep]:
        if step_of(checkpoint) not in kept_steps:
            remove_checkpoint(checkpoint)
    for left in Path(output_dir).glob(".checkpoint-*"):
        if found := _LEFT.fullmatch(left.name):
            whole = left.with_name(found["name"])
            if found["kind"] == "old" and not whole.exists():  # killed between the two renames
                os.replace(left, whole)
            shutil.rmtree(left, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush files to the disk, so that a rename never points at data that a power cut loses."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())


def _is_write_failure(error: BaseException) -> bool:
    # safetensors and torch.save wrap the operating system's error in their own types.
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, OSError) or any(
        mark in text
        for mark in (
            "No space left",
            "SafetensorError",
            "PytorchStreamWriter",
            "inline_container",
            "iostream",
            "I/O error",
        )
    )
