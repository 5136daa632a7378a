"""A training as a job, and what other jobs use of it: its data and its checkpoints."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.training.arguments import parse_changes
from arche_mdlm.training.data.corpus import Corpus, load_corpus
from arche_mdlm.training.files.checkpointing import list_checkpoints, read_state, write_json_atomically
from arche_mdlm.training.loop.provenance import portable
from arche_mdlm.training.models.loading import load_arm
from arche_mdlm.training.request import TrainingRequest

TRAIN = "arche_mdlm.studies.engine.trainings:train"  # as a job names it


def read_corpus(settings: dict, tokenizer: PreTrainedTokenizerBase | None = None) -> Corpus:
    """Both splits, as the training prepares them (from its cache)."""
    data = settings.get("preset") or settings["arms"]["mdlm"]
    return load_corpus(DataSettings(**data["data"]), settings["validation_data"], tokenizer)


def _device() -> str:
    return default_device()


def train(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Train a checkpoint, or go on where an interrupted training was; keeps the best and the last one as model folders."""
    done = folder / "trained.json"
    if not done.is_file():
        write_json_atomically(done, _train(settings, inputs, folder / "run"))
    result = json.loads(done.read_text(encoding="utf-8"))
    for checkpoint in list_checkpoints(folder / "run"):
        if checkpoint.name != Path(result["last"]).name:
            shutil.rmtree(checkpoint)
    (folder / result["last"] / "optimizer.pt").unlink(missing_ok=True)
    return result


def _train(settings: dict, inputs: dict[str, Path], output: Path) -> dict:
    from arche_mdlm.training.run import run

    if run(_request(settings, inputs, output)).interrupted:
        raise KeyboardInterrupt  # it has saved itself
    last = list_checkpoints(output)[-1]
    state, described = read_state(last), json.loads((output / "run.json").read_text(encoding="utf-8"))
    kept = ("best_step", "seconds", "tokens", "supervised", "history")
    return {"best": "run/final", "last": f"run/{last.name}", "steps": state["step"], **{k: state[k] for k in kept},
            "best_nats": state["best_nats"], "stop_at_nats": state["preset"]["training"]["stop_at_nats"],
            "parameters": described["parameters"], "device": described["device"],
            "versions": described["versions"]}  # fmt: skip


def _request(settings: dict, inputs: dict[str, Path], output: Path) -> TrainingRequest:
    """What the training is asked; a matched one has as many steps as the supervision job has found, a stopped one ends at the likelihood that
    another model has on the stories of its evaluations."""
    changes = parse_changes(settings["changes"])
    if settings["data"] is not None:
        changes["data.source"] = settings["data"]
    if settings["matched"]:
        found = next(path for name, path in inputs.items() if name.startswith("supervision"))
        changes["training.max_steps"] = result_of(found)["ar_steps"]
    if settings.get("stopped"):
        found = next(path for name, path in inputs.items() if name.startswith(("likelihood", "exact")))
        changes["training.stop_at_nats"] = nats_of_first(
            result_of(found), settings["resolved"]["training"]["eval_rows"]
        )
    return TrainingRequest(
        preset=settings["preset"],
        changes=changes,
        validation_data=settings["validation_data"],
        output_dir=output,
        resume=True,
        command=training_command(settings),
    )


def nats_of_first(likelihood: dict, stories: int | None) -> float:
    """Nats a token of the first stories (None: all) of a result with the `nats` and `tokens` of each."""
    return sum(likelihood["nats"][:stories]) / sum(likelihood["tokens"][:stories])


def training_command(own: dict) -> str:
    """The command line of a training by its settings; a matched one's number of steps, or the likelihood at which it ends, aside."""
    words = ["arche-mdlm", "train", "--preset", own["preset"]]
    for option in ("data", "validation_data"):
        words += [f"--{option}", portable(own[option])] if own[option] is not None else []
    for change in own["changes"]:
        words += ["--set", change]
    return " ".join(map(shlex.quote, words))


def load_checkpoint(settings: dict, inputs: dict[str, Path]) -> tuple[Any, Any]:
    """(model, tokenizer) of the training that a job needs, best or last."""
    source = next(path for name, path in inputs.items() if name.startswith("train"))
    model, tokenizer = load_arm(source / result_of(source)[settings["checkpoint"]])
    return model.to(_device()).eval(), tokenizer
