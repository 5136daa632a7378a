"""The options that all studies have. Imports nothing heavy: `arche-mdlm --help` reads it."""

import argparse
from pathlib import Path

from arche_mdlm.training.command_line import add_threads, count


def add_running_arguments(parser: argparse.ArgumentParser, output: str, here: bool = False) -> None:
    """How a study is run; with `here` all its jobs run in this process, one after another."""
    add = parser.add_argument
    add("--output", type=Path, default=Path(output), help="folder of the study; finished jobs in it are not run again")
    if here:
        parser.set_defaults(workers=0)
    else:
        add(
            "--workers",
            type=count(0, 1024),
            default=1,
            help="number of processes; GPUs are assigned in turn; 0 runs all jobs in this process",
        )
    add_threads(parser)
    add("--publish", type=Path, metavar="FILE", help="copy the report to FILE.md, FILE.json and FILE/")
    add("--dry_run", action="store_true", help="print the jobs with estimated times, and stop")
