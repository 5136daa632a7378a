"""`arche-mdlm compare --families`, also `arche-mdlm study families`: its options, and how it is run. Imports nothing heavy before."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from arche_mdlm.checkpoints import SHIPPED
from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.training.command_line import SEED, TEMPERATURE, add_shipped, checkpoint, count, device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_shipped(parser, "ar")
    others = [name for name in SHIPPED if name != "ar"]
    add(
        "--models",
        type=labelled,
        nargs="+",
        metavar="LABEL=FOLDER",
        help="diffusion checkpoints, folders or repositories, with the names that the report gives them; a shipped one by its "
        f"name alone (default: all that ship: {', '.join(others)})",
    )
    add("--steps", type=count(), nargs="+", default=[16, 64, 128], help="denoising steps")
    add("--batch_sizes", type=count(), nargs="+", default=[1, 32], help="of the timed calls")
    add("--num_samples", type=count(2), default=64, help="stories a model and number of steps, for quality")
    add("--num_timed", type=count(), default=3, help="stories timed at least, a job")
    add("--repeats", type=count(), default=3, help="calls timed at least, a job, unless one takes over 5 s")
    add("--judge", default="twin", help="twin (the AR model), smollm2 (extra judge), none, or a folder or repository")
    add(
        "--references",
        help="held-out stories (txt, jsonl, csv, parquet) for the reference row; default: committed figures",
    )
    add(
        "--data",
        help="held-out stories for the likelihoods; default: the sample corpus, which our own AR model has written",
    )
    add("--likelihood_stories", type=count(2), default=100, help="the first ones of the data")
    add("--likelihood_samples", type=count(2), default=4, help="draws a story of a bound")
    add(
        "--exact_stories",
        type=count(2),
        default=8,
        help="the first ones, whose exact likelihood costs a forward a token",
    )
    add("--seed", type=SEED, default=0)
    add("--temperature", type=TEMPERATURE, default=1.0)
    add("--device", type=device, default="cpu")
    add_running_arguments(parser, "runs/families", here=True)


def labelled(text: str) -> tuple[str, str]:
    """The type of an option: (label, checkpoint) of LABEL=CHECKPOINT, or of a shipped one's name."""
    label, separator, source = text.partition("=")
    if not separator and text in SHIPPED:
        source = f"checkpoints/{SHIPPED[text]}"
    elif not separator or not label.strip() or not any(letter.isalnum() for letter in label):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not LABEL=FOLDER, nor the name of a shipped checkpoint: {', '.join(SHIPPED)}"
        )
    return label.strip(), checkpoint(source)


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining measurements, write report.md, report.json and frontier.png; or print the plan."""
    from transformers.utils import logging

    from arche_mdlm.studies.engine.command import run_study, settings_of
    from arche_mdlm.studies.families.plan import Settings, build_plan
    from arche_mdlm.studies.families.report import FILES, write_report
    from arche_mdlm.training.threads import choose_threads

    logging.disable_progress_bar()
    args.threads = choose_threads(args.threads)
    if args.models is None:
        args.models = [labelled(name) for name in SHIPPED if name != "ar"]
    settings = settings_of(Settings, args)
    tell = partial(_tell, show=show)
    return run_study(args, partial(build_plan, settings), asdict(settings), write_report, FILES, show, tell)


def _tell(path: Path, show: Callable[[str], None]) -> None:
    from arche_mdlm.studies.families.report import summary_lines

    report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
    show("\n".join(["", *summary_lines(report), ""]))
