"""`arche-mdlm study data-limited`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable

from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.studies.engine.small.arguments import add_subset_arguments
from arche_mdlm.training.command_line import Number, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subset_arguments(parser)
    add = parser.add_argument
    add(
        "--unique_tokens",
        type=count(1000),
        nargs="+",
        default=[100_000, 300_000, 1_000_000],
        help="approximate numbers of tokens in the subsets",
    )
    add("--weight_decays", type=Number(float, 0, 1000), nargs="+", default=[0.0, 0.1, 1.0], help="weight decays of AR")
    add("--dropouts", type=Number(float, 0, 0.99), nargs="+", default=[0.0, 0.1, 0.3], help="attention dropouts of AR")
    add("--exact_rows", type=count(), default=16, help="rows of each held-out half with exact likelihoods in both arms")
    add(
        "--endings",
        type=count(),
        default=32,
        help="rows of each held-out half whose endings are compared with corrupted ones",
    )
    add_running_arguments(parser, "runs/data-limited")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write the report; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.data_limited.plan import DataLimitedSettings, build_plan
    from arche_mdlm.studies.data_limited.report import FILES, write_report
    from arche_mdlm.studies.engine.small.running import run_small_study

    return run_small_study(args, DataLimitedSettings, build_plan, write_report, FILES, show)
