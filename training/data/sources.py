"""Where texts come from: a Hub dataset, one saved by `datasets`, or local files (`readers.py`), one or several; and their splits."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from arche_mdlm.training.data.formats import Format, Item, identity, plain_text
from arche_mdlm.training.data.readers import PACKED, SUFFIXES, items_of, kind_of, open_bytes, read_items, readable

DEFAULT_SOURCE = "roneneldan/TinyStories"
OWN_SPLITS = ("train", "validation")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """One split of one source. `files` is empty for a Hub dataset, whose `revision` is then a commit."""

    name: str
    split: str
    form: Format = Format()
    files: tuple[Path, ...] = ()
    validation_fraction: float | None = None
    revision: str | None = None
    streaming: bool = False
    config: str | None = None  # of a Hub dataset
    saved: Path | None = None  # the folder of a dataset that `datasets` has saved, whose files are `files`

    def fingerprint(self) -> str:
        """The identity of the stories' source, as text: content hashes of local files, or the Hub id and commit."""
        if self.files:
            data: list[Any] = [(kind_of(file), _file_hash(file)) for file in self.files]
        else:
            data = [self.name, self.revision, *([] if self.config is None else [self.config])]
        # The hash split reads the whole of `train` and keeps a part; else the split is part of what is read.
        return json.dumps([data, self.split, self.form.text, self.validation_fraction, *self.form.settings])

    def __iter__(self) -> Iterator[str]:
        """The texts of the split, in the source's order, without white space around them; nulls are left out. Of prompts and
        messages all that is written in them."""
        return (plain_text(item) for item in self.items() if item is not None)

    def items(self) -> Iterator[Item | None]:
        """What the split holds, with a None for each null; a share held out by hash has none, they count for `train`."""
        for item in self._all():
            if item is None:
                if self.validation_fraction is None or self.split == "train":
                    yield None
                continue
            if isinstance(item, str):
                item = item.strip()
            if self.validation_fraction is None or split_of(identity(item), self.validation_fraction) == self.split:
                yield item

    def _all(self) -> Iterator[Item | None]:
        if self.saved is not None:
            import datasets

            return read_table(datasets.load_from_disk(str(self.saved)), self.form, self.name)
        if self.files:
            return (item for file in self.files for item in read_items(file, self.form))
        return read_table(_open_hub(self), self.form, self.name)


def open_source(
    source: str | os.PathLike,
    *,
    split: str = "train",
    text_column: str = "text",
    form: Format | None = None,
    validation_fraction: float | None = None,
    revision: str | None = None,
    config: str | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
) -> Source:
    """Find `source` and its `split`; iterating over the result gives the stories.

    Args:
        source: a local file, several (`part-*.jsonl`, or names with commas between them), a folder that holds
            `{split}.jsonl` (or another known suffix, or shards named `{split}-*`), one that `datasets` has saved
            (`save_to_disk`), or a Hub dataset id (`name:configuration` for one of several). What exists locally wins.
        split: "train" or "validation"; folders and the Hub may have others.
        text_column: the field of jsonl, json, csv, parquet and Hub data that holds the story; `story.text` is the
            field `text` of the object `story`.
        form: what a row is; None: a text in `text_column`.
        validation_fraction: None: the source's own splits are used, and a single file is all "train". A fraction: the
            source's `train` stories are split by the hash of their text, so that equal stories are on the same side.
        revision: a Hub branch, tag or commit.
        config: of a Hub dataset that has several configurations.
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
    saved = saved_split(Path(name), own_split)
    if saved is not None:
        files = _saved_files(saved)
    elif Path(name).is_dir():
        files = _split_files(Path(name), own_split)
    elif named := _named_files(name):
        files = tuple(_single_file(path, own_split) for path in named)
    elif kind_of(Path(name)) or not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"source={name!r} does not exist: give a file ({', '.join(SUFFIXES)}), folder or Hub id"
        )
    else:
        name, _, own = name.partition(":")
        if own and config:
            raise ValueError(f"source={name}:{own} and data.config={config!r} both set a configuration: give one")
        config = own or config
        revision = _hub_commit(name, revision, cache_dir)
    if files and config is not None:
        raise ValueError(f"data.config={config!r} is only for Hub datasets; source={name!r} is local")
    form = Format(text=text_column) if form is None else form
    return Source(name, split, form, files, validation_fraction, revision, streaming, config, saved)


def is_files(source: str | os.PathLike) -> bool:
    """Whether `source` names one local file or several, all of one split, or a saved dataset without splits."""
    name = os.path.expanduser(source)
    if (Path(name) / SAVED).is_file():
        return True
    return not Path(name).is_dir() and bool(_named_files(name))


def content_hash(source: str | os.PathLike, split: str) -> str:
    """The identity of the content for `split`: a hash of its files, or the name of a Hub dataset. FileNotFoundError for no file."""
    name = os.path.expanduser(source)
    if not (Path(name).is_dir() or _named_files(name)) and _HUB_ID.fullmatch(name) and not kind_of(Path(name)):
        return name
    files = open_source(source, split=split).files
    hashes = [_file_hash(file, unzip=True) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _named_files(name: str) -> list[Path]:
    """The file of that name; else the files of a pattern, or of a list with commas. FileNotFoundError where a part has none."""
    if Path(name).is_file():
        return [Path(name)]
    parts = [part.strip() for part in name.split(",") if part.strip()]
    if len(parts) < 2 and not glob.has_magic(name):
        return []
    found = []
    for part in parts:
        part = os.path.expanduser(part)
        paths = [part] if Path(part).is_file() else sorted(path for path in glob.glob(part) if Path(path).is_file())
        if not paths:
            raise FileNotFoundError(f"source={name!r}: no file {part!r}")
        found += [Path(path) for path in paths]
    twice = {str(path) for path in found if found.count(path) > 1}
    if twice:
        raise ValueError(f"source={name!r} names {', '.join(sorted(twice))} twice")
    return found


def split_of(text: str, validation_fraction: float) -> str:
    """ "train" or "validation" by the SHA-256 of the stripped text: the same story is never in both."""
    digest = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < validation_fraction * 2**64 else "train"


def _file_hash(path: Path, unzip: bool = False) -> str:
    digest = hashlib.sha256()
    with readable(path), open_bytes(path) if unzip else path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _single_file(path: Path, split: str) -> Path:
    if kind_of(path) is None:
        raise ValueError(
            f"source={str(path)!r} has the suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}, and .gz and .zst of all but parquet"
        )
    if split != "train":
        raise ValueError(
            f"split={split!r}: the single file {str(path)!r} has only the split 'train'; "
            "give validation_fraction=0.05 to split it, or a file for each split"
        )
    return path


def _split_files(folder: Path, split: str) -> tuple[Path, ...]:
    """The one `{split}.suffix`, or the shards `{split}-*.suffix` in the order of their names."""
    found = {}
    for suffix in (*SUFFIXES, *PACKED):
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


# --- what `datasets` has saved ----------------------------------------------------------------------------------------

SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"


def saved_split(folder: Path, split: str) -> Path | None:
    """The folder of a split that `save_to_disk` has written; None for other folders. ValueError for a split that is not there."""
    if (folder / SAVED_SPLITS).is_file():
        there = json.loads((folder / SAVED_SPLITS).read_text(encoding="utf-8"))["splits"]
        if split not in there:
            raise ValueError(
                f"source={str(folder)!r} has no split={split!r}, but {', '.join(there)}; validation_fraction splits 'train'"
            )
        return folder / split
    if not (folder / SAVED).is_file():
        return None
    if split != "train":
        raise ValueError(
            f"split={split!r}: the saved dataset {str(folder)!r} has only the split 'train'; give validation_fraction=0.05"
        )
    return folder


def _saved_files(folder: Path) -> tuple[Path, ...]:
    state = json.loads((folder / SAVED).read_text(encoding="utf-8"))
    files = tuple(folder / file["filename"] for file in state["_data_files"])
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"the saved dataset {str(folder)!r} is incomplete: {file.name} is missing")
    return files


def read_table(data: Any, form: Format, name: str) -> Iterator[Item | None]:
    """The items of a `datasets.Dataset`, or of one that is streamed."""
    if data.column_names is not None:  # unknown before the first row when streaming some formats
        form = form.resolved(data.column_names, name)
        data = data.select_columns(
            list(dict.fromkeys(c if c in data.column_names else c.split(".")[0] for c in form.columns()))
        )
    return items_of(((row, f"{name}, row {number}") for number, row in enumerate(data, 1)), form)


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _hub_commit(name: str, revision: str | None, cache_dir: str | Path | None) -> str:
    """The commit of a Hub dataset: asked for, or without a network the one that was found last time."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    memory = Path(cache_dir or ".") / "hub" / f"{name.replace('/', '--')}@{(revision or 'main').replace('/', '--')}"
    try:
        commit = cast(str, HfApi().dataset_info(name, revision=revision).sha)
    except RevisionNotFoundError:
        raise ValueError(f"revision={revision!r} unknown: the Hub dataset {name!r} has no such revision") from None
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise FileNotFoundError(
            f"source={name!r} is neither a local file or folder nor a Hub dataset you can read ({type(error).__name__})"
        ) from None
    except Exception as error:  # the client raises many kinds without a network: httpx, OSError, its own
        if cache_dir is not None and memory.is_file():
            return memory.read_text(encoding="utf-8")
        if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
            return revision
        raise FileNotFoundError(_unreachable(name, error)) from error
    if cache_dir is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(commit, encoding="utf-8")
    return commit


def _open_hub(source: Source) -> Any:
    import datasets

    split = source.split if source.validation_fraction is None else "train"
    try:
        builder = datasets.load_dataset_builder(source.name, source.config, revision=source.revision)
        # Without a network `datasets` falls back to any cached commit, and only logs it.
        if builder.hash != source.revision:
            raise OSError(f"only another commit than {source.revision} is in the cache: {builder.hash}")
        if source.streaming:
            data = builder.as_streaming_dataset(split)
        else:
            builder.download_and_prepare()
            data = builder.as_dataset(split)
    except ValueError as error:
        hint = "; name it by data.config" if "onfig" in str(error) else ""
        raise ValueError(f"source={source.name!r}, split={split!r}: {error}{hint}") from error
    except Exception as error:
        raise FileNotFoundError(_unreachable(source.name, error)) from error
    return data


def _unreachable(name: str, error: Exception) -> str:
    return (
        f"source={name!r} is not a local file or folder, and could not be read from the Hub "
        f"({type(error).__name__}: {str(error)[:200]}); without a network give a local file "
        f"({', '.join(SUFFIXES)}) or folder instead"
    )
