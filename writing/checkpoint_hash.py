"""A hash that distinguishes checkpoints of the same name."""

import hashlib
from pathlib import Path

from transformers import PreTrainedConfig


def checkpoint_hash(source: str, config: PreTrainedConfig) -> str:
    """A hash of the checkpoint's files, or its commit on the Hub."""
    folder = Path(source)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None))
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".bin") and path.name not in (
            "training_log.json",
            ".arche-mdlm.json",
        ):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
    return digest.hexdigest()
