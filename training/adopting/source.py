"""The files of somebody's checkpoint: a folder, or a repository of the Hub, of which only what is asked for is downloaded."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    StrictDataclassError,
)

from arche_mdlm.training.models.loading import checked_source

# The client of the Hub passes on the errors of its HTTP library if the network fails: OSErrors, or one of these.
_UNREACHABLE = (OSError, HfHubHTTPError, OfflineModeIsEnabled, RuntimeError)


class CheckpointFiles:
    """The files of a checkpoint by name.

    Args:
        source: a folder, or a Hub repository like `"GSAI-ML/LLaDA-8B-Base"`. Without network: what is in the Hub's cache.
        revision: branch, tag or commit of a repository; None: its main branch.

    Raises:
        ValueError: for a folder that is not a checkpoint, a repository or revision that does not exist, a folder with a revision, or no
            network and nothing in the cache.
    """

    def __init__(self, source: str | Path, revision: str | None = None) -> None:
        self.source = checked_source(source, revision)
        self.branch = revision
        self.folder = Path(self.source) if Path(self.source).is_dir() else None
        self.revision: str | None = None
        if self.folder is None:
            self._look_up()
        if self.folder is not None:
            self.names = sorted(path.name for path in self.folder.iterdir() if path.is_file())

    def _look_up(self) -> None:
        try:
            info = HfApi().model_info(self.source, revision=self.branch)
        except _UNREACHABLE as error:
            try:
                self.folder = Path(snapshot_download(self.source, revision=self.branch, local_files_only=True))
            except (LocalEntryNotFoundError, ValueError, OSError):
                at = f" at revision {self.branch!r}" if self.branch else ""
                raise ValueError(
                    f"could not get {self.source!r}{at} from the Hub, and it is not in the cache: {_line(error)}. Give the folder of a "
                    "checkpoint, or try again with a network connection"
                ) from error
            return
        self.revision = info.sha  # all files of one commit, also when another comes meanwhile
        self.names = sorted(file.rfilename for file in info.siblings or [])

    def path(self, name: str) -> Path:
        """Where a file lies, downloaded if need be; ValueError for one that is missing or cannot be had."""
        if name not in self.names:
            raise ValueError(f"{self.source!r} has no file {name}")
        if self.folder is not None:
            return self.folder / name
        # By the branch's name first: the cache then knows what it was at, and is found without network.
        revision = self.branch if name == "config.json" else self.revision
        try:
            return Path(hf_hub_download(self.source, name, revision=revision))
        except (*_UNREACHABLE, EntryNotFoundError) as error:
            raise ValueError(
                f"could not download {name} of {self.source!r}: {_line(error)}. Downloaded files are kept: run the same command again"
            ) from error

    def json(self, name: str) -> dict[str, Any]:
        """A file of JSON whose top is an object; {} for a file that is missing, ValueError for another content."""
        if name not in self.names:
            return {}
        path = self.path(name)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{name} of {self.source!r} is not valid JSON: {_line(error)}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{name} of {self.source!r} is not a JSON object")
        return values


@contextmanager
def reading_config(source: str) -> Iterator[None]:
    """ValueError, naming the source, where values of its config.json are missing or make no model."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"config.json of {source!r} lacks {error.args[0]}") from error
    except (TypeError, ArithmeticError, StrictDataclassError) as error:
        raise ValueError(f"config.json of {source!r} does not give a valid model: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
