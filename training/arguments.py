"""The command line of training: what it asks, as a `TrainingRequest`."""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from arche_mdlm.configuration.presets import NULL, available_presets
from arche_mdlm.training.command_line import ArgumentParser, HelpFormatter, add_threads, checkpoint
from arche_mdlm.training.request import DEFAULT_PRESET, SAVE_DTYPES, TrainingRequest

_SHORTCUTS = {  # option: preset key, type
    "max_steps": ("training.max_steps", int),
    "epochs": ("training.epochs", float),
    "batch_size": ("training.batch_size", int),
    "accumulation": ("training.accumulation", int),
    "learning_rate": ("training.learning_rate", float),
    "objective": ("training.objective", str),
    "seed": ("training.seed", int),
    "eval_every": ("training.eval_every", int),
    "save_every": ("training.save_every", int),
    "mixed_precision": ("training.mixed_precision", str),
    "tokenizer": ("data.tokenizer", str),
    "text_column": ("data.text_column", str),
    "layout": ("data.layout", str),
    "long_documents": ("data.long_documents", str),
    "max_tokens": ("data.max_tokens", int),
    "num_workers": ("data.num_workers", int),
}


# Texts that look like a mapping to YAML: "{title}: {text}".
_VERBATIM = ("data.template", "data.text_column", "data.prompt_column", "data.completion_column")


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """All options of training; `prog` is the program's name in the help."""
    parser = ArgumentParser(
        prog=prog,
        description="Train or fine-tune an MDLM or an AR model. Without arguments: the quickstart preset on the sample "
        "corpus included in the library.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add(
        "--preset",
        help=f"one of {', '.join(available_presets())}, or a YAML file (default: {DEFAULT_PRESET}; with --resume the "
        "settings of the stored run)",
    )
    add(
        "--data",
        help="Hub id, folder, or txt, jsonl, json, csv (each also .gz or .zst) or parquet file; several files as 'part-*.jsonl' or "
        "a.jsonl,b.jsonl (default: from the preset); see docs/data.md for examples",
    )
    add("--validation_data", help="file with held-out text (default: the validation split of the source)")
    add("--validation_fraction", type=float, help="share of texts to hold out if the source has no validation split")
    add("--output_dir", type=Path, help="folder for checkpoints and logs (default: runs/PRESET)")
    add(
        "--init_from",
        type=checkpoint,
        help="checkpoint folder or repository to fine-tune (default: train from scratch)",
    )
    add("--resume", action="store_true", help="resume from the newest checkpoint in --output_dir, if there is one")
    add(
        "--branch_from",
        type=Path,
        metavar="RUN",
        help="branch off a longer run with schedule warmup_stable_decay at its "
        "peak learning rate (its training.branches must contain the length of this run)",
    )
    add(
        "--allow_changes",
        action="store_true",
        help="resume even if settings or data differ from the stored run",
    )
    add(
        "--overwrite",
        action="store_true",
        help="delete the checkpoints of the run in --output_dir, and start over",
    )
    add_threads(parser)
    add("--streaming", action="store_true", help="stream the source instead of downloading it")
    add("--compile", action="store_true", help="torch.compile the model")
    add("--save_dtype", default="float32", choices=SAVE_DTYPES, help="dtype of the final model")
    add("--push_to_hub", metavar="REPO", help="Hub repository to push the final model to")
    add("--hub_private", action="store_true", help="make the repository of --push_to_hub private")
    add(
        "--push_checkpoints",
        action="store_true",
        help="also push each checkpoint to --push_to_hub when it is written",
    )
    add(
        "--report_to",
        type=_names,
        default=("tensorboard",),
        metavar="TRACKER[,TRACKER]",
        help="trackers of Accelerate (tensorboard, wandb, mlflow, ...), or none; default: tensorboard",
    )
    add("--stop_after", type=int, help="save and stop after this number of steps in this session")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a preset key, such as model.config.hidden_size=64",
    )
    for option, (key, kind) in _SHORTCUTS.items():
        add(f"--{option}", type=kind, help=f"sets {key}")
    return parser


def request_of(args: argparse.Namespace, command: str = "") -> TrainingRequest:
    """The request of a parsed command line, and that itself for the record; ValueError for values that cannot be read or are not allowed."""
    names = set(TrainingRequest.__dataclass_fields__) - {"changes", "command"}
    return TrainingRequest(**{name: getattr(args, name) for name in names}, changes=_changes_of(args), command=command)


def _changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """The changes of the preset, by key."""
    changes = {key: getattr(args, option) for option, (key, _) in _SHORTCUTS.items()}
    changes["data.source"] = args.data
    changes["data.validation_fraction"] = args.validation_fraction
    changes["data.streaming"] = args.streaming or None
    changes["training.compile"] = args.compile or None
    changes = {key: value for key, value in changes.items() if value is not None}
    for key, value in parse_changes(args.set).items():
        if key in changes and changes[key] != value:
            raise ValueError(f"{key} is given twice: {changes[key]!r}, and {value!r} by --set")
        changes[key] = value
    return changes


def parse_changes(items: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings as `load_preset` takes them; ValueError for another form."""
    changes = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set {item!r} must be KEY=VALUE")
        try:
            changes[key] = value if key in _VERBATIM and value != "null" else _parse(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {item!r}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    return changes


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them; "none": no name."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _parse(text: str) -> Any:
    """A value of `--set` as YAML has it, but `1e-4` is a number (to YAML 1.1 it is a string)."""
    if re.fullmatch(r"[+-]?\d+\.?\d*[eE][+-]?\d+", text):
        return float(text)
    value = yaml.safe_load(text)
    return NULL if value is None else value
