"""The options that all studies have. Imports nothing heavy: `arche-mdlm --help` reads it."""

import argparse
from pathlib import Path

from arche_mdlm.training.command_line import add_threads, count


def add_running_arguments(parser: argparse.ArgumentParser, output: str, here: bool = False) -> None:
    """How a study is run; with `here` all its jobs run in this process, one after another."""
    add = parser.add_argument
    add("--output", type=Path, default=Path(output), help="the study's folder; finished jobs in it are not done again")
    if here:
        parser.set_defaults(workers=0)
    else:
        add(
            "--workers",
            type=count(0, 1024),
            default=1,
            help="processes at a time, with a GPU each in turn; 0: all in this one",
        )
    add_threads(parser)
    add("--publish", type=Path, metavar="FILE", help="copy the report to FILE.md, FILE.json and FILE/, to be committed")
    add("--dry_run", action="store_true", help="print the jobs, with an estimate of time, and stop")
