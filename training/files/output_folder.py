"""The output folder of a run: which files belong to a run and which to the user, whose files are kept."""

import json
from pathlib import Path

from arche_mdlm.training.files.checkpointing import list_checkpoints
from arche_mdlm.training.files.own_files import check_writable

# A run replaces these; of `final/` it keeps what it has not written, but a whole model there is somebody's.
_OURS = ("run.json", "training_log.json", "final/config.json")


def check_output_dir(output_dir: Path) -> None:
    """ValueError if a run cannot be written, or would overwrite files that no run has written."""
    check_writable(output_dir, "--output_dir")
    if list_checkpoints(output_dir) or _is_run(output_dir / "run.json"):
        return
    foreign = [name for name in _OURS if (output_dir / name).exists()]
    if (output_dir / "final").is_file():
        foreign.append("final")
    if foreign:
        raise ValueError(
            f"--output_dir {output_dir} holds {', '.join(foreign)}, which no run has written and a run would overwrite: "
            "give another folder"
        )


def _is_run(path: Path) -> bool:
    """Whether this is the `run.json` of a run, such as one that was stopped before its first checkpoint."""
    try:
        return {"preset", "data", "command"} <= set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False
