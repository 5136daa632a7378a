"""Tensors from other people's safetensors files into ours, renamed, a shard at a time: bytes stay as they are, and memory holds one shard."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from arche_mdlm.training.adopting.source import CheckpointFiles

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 10**9  # of a shard that is written; a larger tensor has one of its own
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LISTED = 5  # names in a message
_BUFFERS = ("rotary_emb.inv_freq",)  # computed by us; some old checkpoints hold it


@dataclass(frozen=True)
class Entry:
    """A tensor of the source: our name, its own, its file, shape, and dtype as safetensors calls it."""

    name: str
    original: str
    file: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * _DTYPES[self.dtype].itemsize


@dataclass
class Weights:
    """The tensors of a checkpoint, looked up and checked, but not read yet.

    Args:
        files: the checkpoint.
        entries: its tensors.
    """

    files: CheckpointFiles
    entries: list[Entry] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(entry.shape) for entry in self.entries)

    @property
    def dtype(self) -> torch.dtype:
        """Of most of the numbers."""
        sums: dict[str, int] = {}
        for entry in self.entries:
            sums[entry.dtype] = sums.get(entry.dtype, 0) + prod(entry.shape)
        return _DTYPES[max(sums, key=lambda dtype: sums[dtype])]

    def write(self, folder: Path) -> int:
        """Write all tensors into `folder` as `save_pretrained` does, in shards of `SHARD_BYTES`; their number."""
        shards = list(_shards(self.entries))
        total = len(shards)
        index: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            name = SINGLE if total == 1 else f"model-{number:05}-of-{total:05}.safetensors"
            with _open(self.files, shard[0].file) as source:
                tensors = {entry.name: source.get_tensor(entry.original) for entry in shard}
                save_file(tensors, folder / name, metadata={"format": "pt"})
                del tensors
            index |= {entry.name: name for entry in shard}
        if total > 1:
            metadata = {"total_size": self.size, "total_parameters": self.parameters}
            content = json.dumps({"metadata": metadata, "weight_map": index}, indent=2, sort_keys=True)
            (folder / INDEX).write_text(content + "\n", encoding="utf-8")
        return total


def look_up(files: CheckpointFiles, rename: Callable[[str], str | None], model: torch.nn.Module) -> Weights:
    """The weights of a checkpoint, by their headers alone.

    Args:
        files: the checkpoint; its shards are downloaded.
        rename: a tensor's name to ours; None for one that we do not know.
        model: ours, on the meta device: which tensors there must be, of which shapes.

    Raises:
        ValueError: where there are only pickles, a shard is missing or damaged, a tensor is missing, unknown, twice there, of another shape,
            or quantised.
    """
    found: dict[str, Entry] = {}
    unknown: list[str] = []
    for file, names in _files(files).items():
        with _open(files, file) as content:
            there = set(content.keys())
            if lost := sorted(names - there):
                raise ValueError(f"{file} of {files.source!r} lacks {_list(lost)}, which {INDEX} lists")
            for original in sorted(there):
                if original.endswith(_BUFFERS):
                    continue
                name = rename(original)
                if name is None:
                    unknown.append(original)
                    continue
                if name in found:
                    raise ValueError(f"{files.source!r} has {original} twice: in {found[name].file} and in {file}")
                header = content.get_slice(original)
                found[name] = Entry(name, original, file, tuple(header.get_shape()), header.get_dtype())
    _check(files.source, found, unknown, model)
    return Weights(files, _without_tied_head(files, found, model))


def announced_size(files: CheckpointFiles) -> int:
    """Bytes of the weights as the index tells them, before any is downloaded; 0 where it does not."""
    metadata = files.json(INDEX).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(size) if isinstance(size, (int, float)) else 0


def check_room(size: int, destination: Path) -> None:
    """ValueError where the disk of a new folder has no room for `size` bytes of weights."""
    place = Path(destination).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise ValueError(
            f"the weights need {size / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free: name a destination on another disk"
        )


def _files(files: CheckpointFiles) -> dict[str, set[str]]:
    """Files of weights, with the names of tensors that the index says each has; none are named without an index."""
    if INDEX in files.names:
        placed = files.json(INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise ValueError(f"{INDEX} of {files.source!r} has no weight_map")
        shards: dict[str, set[str]] = {}
        for name, file in placed.items():
            shards.setdefault(file, set()).add(name)
        if missing := sorted(set(shards) - set(files.names)):
            raise ValueError(f"{files.source!r} lacks {_list(missing)} of the {len(shards)} shards that {INDEX} names")
        return dict(sorted(shards.items()))
    if SINGLE in files.names:
        return {SINGLE: set()}
    pickles = [name for name in files.names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles:
        raise ValueError(
            f"{files.source!r} has only pickled weights ({_list(pickles)}), and loading them would run their code: use a checkpoint in "
            "safetensors"
        )
    raise ValueError(f"{files.source!r} has no weights: neither {SINGLE} nor {INDEX}")


@contextmanager
def _open(files: CheckpointFiles, name: str) -> Iterator[Any]:
    """A file of safetensors; ValueError for a damaged one."""
    path = files.path(name)
    try:
        with safe_open(path, framework="pt") as content:
            yield content
    except SafetensorError as error:
        raise ValueError(f"{name} of {files.source!r} is damaged: {error}") from error


def _check(source: str, found: dict[str, Entry], unknown: list[str], model: torch.nn.Module) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = getattr(model.config, "tie_word_embeddings", False)
    optional = {"lm_head.weight"} if tied else set()
    missing = sorted(wanted.keys() - found.keys() - optional)
    unknown += [entry.original for name, entry in found.items() if name not in wanted]
    if missing or unknown:
        raise ValueError(
            f"the weights of {source!r} do not fit its config.json: missing {_list(missing)} (names of this library); unknown "
            f"{_list(sorted(unknown))}"
        )
    wrong = [entry for entry in found.values() if entry.shape != wanted[entry.name]]
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{len(wrong)} tensors of {source!r} do not have the sizes of its config.json, first {first.original}: {first.shape}, not "
            f"{wanted[first.name]}"
        )
    if odd := sorted({entry.dtype for entry in found.values()} - _DTYPES.keys()):
        raise ValueError(f"{source!r} has tensors of dtype {', '.join(odd)}: use the unquantised checkpoint")


def _without_tied_head(files: CheckpointFiles, found: dict[str, Entry], model: Any) -> list[Entry]:
    """All tensors but the head of a tied model; ValueError where that is another matrix than the embedding."""
    head = found.get("lm_head.weight")
    if head is None or not model.config.tie_word_embeddings:
        return list(found.values())
    embedding = found["model.embed_tokens.weight"]
    with _open(files, head.file) as one, _open(files, embedding.file) as other:
        if not torch.equal(one.get_tensor(head.original), other.get_tensor(embedding.original)):
            raise ValueError(
                f"config.json of {files.source!r} ties {head.original} to {embedding.original}, but their values differ"
            )
    return [entry for entry in found.values() if entry is not head]


def _shards(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Tensors in groups of one file of the source and `SHARD_BYTES`."""
    shard: list[Entry] = []
    size = 0
    for entry in entries:
        if shard and (entry.file != shard[0].file or size + entry.size > SHARD_BYTES):
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += entry.size
    if shard:
        yield shard


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more
