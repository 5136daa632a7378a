"""Options and start that commands of benchmarks share."""

import argparse
from pathlib import Path

import torch
import transformers

from benchmarks.report import describe_machine, destination

MIN_ROUNDS = 5


def add_run_options(parser: argparse.ArgumentParser, results: Path, rounds_of: str = "") -> None:
    """`--rounds`, `--device`, `--threads` and `--output`; `rounds_of`: what is measured in rounds, where not all is."""
    add = parser.add_argument
    add("--rounds", type=int, default=MIN_ROUNDS, help=f"measured rounds{rounds_of}, at least {MIN_ROUNDS}")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="number of PyTorch's CPU threads")
    add("--output", type=Path, default=results)


def check_rounds(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the command where there are too few."""
    if args.rounds < MIN_ROUNDS:
        parser.error(f"--rounds {args.rounds} is less than {MIN_ROUNDS}")


def begin(args: argparse.Namespace) -> tuple[torch.device, dict]:
    """The device, and the machine as it is before; ValueError for an output that cannot be written."""
    destination(args.output)
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    device = torch.device(args.device)
    return device, describe_machine(device)
