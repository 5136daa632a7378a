"""From a finished run to a checkpoint to ship: rounded weights, figures of just these, card, log and loss curve.

`python -m tools.export runs/mini-mdlm checkpoints/mdlm-tinystories-mini --validation_data held_out.jsonl`
"""

import json
from pathlib import Path

import torch

from arche_mdlm.configuration.settings import DataSettings, ModelSettings, Preset, TrainingSettings
from arche_mdlm.studies.quickstart.plots import plot_training
from arche_mdlm.training.command_line import ArgumentParser, count, exit_status
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.files.checkpointing import (
    list_checkpoints,
    read_state,
    write_folder_atomically,
    write_json_atomically,
)
from arche_mdlm.training.files.own_files import check_new_folder
from arche_mdlm.training.loop.evaluation import Evaluator
from arche_mdlm.training.loop.provenance import portable
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm, save_arm, set_generation_defaults
from arche_mdlm.training.models.model_card import write_model_card

_LICENSE = "apache-2.0"  # of the checkpoints that ship with this library


def export(run_folder: Path, destination: Path, validation: str, dtype: torch.dtype, num_samples: int) -> dict:
    """Write `destination` from the best checkpoint of a run; returns the measured figures.

    Raises ValueError for a folder without checkpoints, a destination that is there already, or validation data that gives
    no rows; before anything is written.
    """
    check_new_folder(destination)
    checkpoints = list_checkpoints(run_folder)
    if not checkpoints:
        raise ValueError(f"{run_folder} does not contain a checkpoint of a run")
    state = read_state(checkpoints[-1])
    if state["best_step"] is None:
        raise ValueError(f"{run_folder} has not been evaluated yet, so the best checkpoint is unknown")
    best = run_folder / f"checkpoint-{state['best_step']:06d}"
    model, tokenizer = load_arm(best)
    preset = _preset(state["preset"])
    set_generation_defaults(model, tokenizer, preset.data.context_length)
    length = preset.data.context_length
    rows = prepare_data(validation, tokenizer, layout="rows", context_length=length, split="train")
    run = portable(json.loads((run_folder / "run.json").read_text(encoding="utf-8")))

    def write(folder: Path) -> None:
        save_arm(model, tokenizer, folder, dtype)
        saved, _ = load_arm(folder)
        scores = Evaluator(rows.dataset, length, tokenizer.pad_token_id, num_samples)(saved)
        scores |= {"num_samples": num_samples, "step": state["best_step"], "sha256": rows.summary.sha256}
        log = {"run": run, "history": state["history"], "exported": scores}
        write_json_atomically(folder / "training_log.json", log)
        plot_training({arm_of(model).label: state["history"]}, folder / "training.png")
        write_model_card(folder, preset, run, state["history"], state["best_step"], destination.name, scores, _LICENSE)
        with (folder / "README.md").open("a", encoding="utf-8") as card:
            card.write("\n![Loss curves](training.png)\n")

    write_folder_atomically(destination, write)
    return json.loads((destination / "training_log.json").read_text(encoding="utf-8"))["exported"]


def _preset(saved: dict) -> Preset:
    return Preset(
        saved["name"],
        saved["description"],
        ModelSettings(**saved["model"]),
        DataSettings(**saved["data"]),
        TrainingSettings(**saved["training"]),
    )


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--validation_data", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--num_samples", type=count(2), default=8)
    args = parser.parse_args(argv)
    scores = export(
        args.run_folder, args.destination, args.validation_data, getattr(torch, args.dtype), args.num_samples
    )
    print(f"{args.destination}: {scores['validation_nats']:.4f} nats a token, "
          f"{scores['validation_bits_per_byte']:.4f} bits a byte")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
