"""`arche-mdlm study overfitting`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable

from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.studies.engine.small.arguments import add_subset_arguments
from arche_mdlm.training.command_line import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subset_arguments(parser)
    parser.add_argument(
        "--unique_tokens", type=count(1000), default=1_000_000, help="approximate number of tokens in the subset"
    )
    add_running_arguments(parser, "runs/overfitting")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write the report; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.engine.small.plan import OneSizeSettings
    from arche_mdlm.studies.engine.small.running import run_small_study
    from arche_mdlm.studies.overfitting.plan import build_plan
    from arche_mdlm.studies.overfitting.report import FILES, write_report

    return run_small_study(args, OneSizeSettings, build_plan, write_report, FILES, show)
