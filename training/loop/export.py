"""The end of a run: its best checkpoint as a model folder with a card, and on the Hub."""

import json
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from arche_mdlm.configuration.settings import Preset
from arche_mdlm.training.files.checkpointing import (
    STATE_FILE,
    list_checkpoints,
    write_folder_atomically,
    write_json_atomically,
)
from arche_mdlm.training.files.own_files import MANIFEST
from arche_mdlm.training.loop.trainer import RunState, TrainingDiverged
from arche_mdlm.training.models.loading import load_arm, save_arm
from arche_mdlm.training.models.model_card import write_model_card


def export_best(output_dir: Path, preset: Preset, state: RunState, save_dtype: str) -> Path:
    """Write the best checkpoint as `final/`, with the log and a card; its path.

    Raises:
        TrainingDiverged: if no evaluation gave a number.
        CheckpointError: if it cannot be written.
    """
    step = state.best_step
    if step is None:
        raise TrainingDiverged(
            f"the likelihood of the validation data was NaN or infinite at every evaluation; the checkpoints are in {output_dir}"
        )
    best = output_dir / f"checkpoint-{step:06d}"
    model, tokenizer = load_arm(best if best.is_dir() else list_checkpoints(output_dir)[-1])
    run = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))

    def write(folder: Path) -> None:
        save_arm(model, tokenizer, folder, dtype=getattr(torch, save_dtype))
        write_json_atomically(folder / "training_log.json", {"run": run, "history": state.history})
        write_model_card(folder, preset, run, state.history, step, output_dir.name)

    final = output_dir / "final"
    write_folder_atomically(final, write)
    which = "best validation" if preset.training.distillation_steps is None else "the last one"
    print(f"done: the model of step {step} ({which}) is in {final}, with its log")
    return final


def create_repository(repository: str, private: bool) -> None:
    """Make it, or find it; ValueError where the Hub does not let us, and for one that is public though `private` is asked for."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        public = private and not api.model_info(repository).private
    except Exception as error:  # the client raises many kinds: its own, httpx, OSError
        raise ValueError(f"--push_to_hub: no repository {repository} to push to ({_why(error)})") from error
    if public:
        raise ValueError(
            f"--hub_private: the repository {repository} exists and is public; nothing has been pushed. Make it private, or give another name"
        )


def push(folder: Path, repository: str, private: bool = False) -> None:
    """Upload a model folder; ValueError, with the command for another try, where the Hub does not take it."""
    from huggingface_hub import HfApi

    try:
        create_repository(repository, private)
        HfApi().upload_folder(repo_id=repository, folder_path=str(folder), ignore_patterns=[MANIFEST])
    except Exception as error:
        raise ValueError(
            f"the model is complete in {folder}, but was not pushed to {repository} ({_why(error)}); "
            f"push it with: hf upload {repository} {folder}" + " --private" * private
        ) from error
    print(f"pushed to {repository}")


def push_checkpoint(folder: Path, repository: str) -> None:
    """Upload a checkpoint's model, without what only resuming needs; where that fails, say so and go on training."""
    from huggingface_hub import HfApi

    left_out = [MANIFEST, "optimizer.pt", STATE_FILE]
    try:
        HfApi().upload_folder(
            repo_id=repository, folder_path=str(folder), ignore_patterns=left_out, commit_message=folder.name
        )
    except Exception as error:
        tqdm.write(f"{folder.name} was not pushed to {repository} ({_why(error)}); training goes on", file=sys.stderr)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
