"""`arche-mdlm study speed-quality`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.training.command_line import SEED, TEMPERATURE, add_pair, count, device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_pair(parser)
    add("--samplers", nargs="+", default=[], help="samplers (default: all)")
    add("--steps", type=count(), nargs="+", default=[8, 16, 32, 64, 128])
    add("--batch_sizes", type=count(), nargs="+", default=[1, 32], help="batch sizes of the timed calls")
    add("--num_samples", type=count(2), default=64, help="stories per sampler and number of steps, for quality")
    add("--num_timed", type=count(), default=4, help="minimum number of timed stories per job")
    add("--repeats", type=count(), default=3, help="minimum number of timed calls per job, unless one takes over 5 s")
    add("--judge", default="smollm2", help="smollm2 (extra judge), none, or a folder or repository of a causal LM")
    add("--references", help="held-out stories (txt, jsonl, csv, parquet) for the reference row")
    add("--seed", type=SEED, default=0)
    add("--temperature", type=TEMPERATURE, default=1.0)
    add("--device", type=device, default="cpu")
    add_running_arguments(parser, "runs/speed-quality", here=True)


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining measurements, write report.md, report.json and frontier.png; or print the plan."""
    from transformers.utils import logging

    from arche_mdlm.studies.engine.command import run_study, settings_of
    from arche_mdlm.studies.speed_quality.plan import Settings, build_plan
    from arche_mdlm.studies.speed_quality.report import FILES, write_report
    from arche_mdlm.training.threads import choose_threads

    logging.disable_progress_bar()
    args.threads = choose_threads(args.threads)
    settings = settings_of(Settings, args)
    return run_study(args, partial(build_plan, settings), asdict(settings), write_report, FILES, show)
