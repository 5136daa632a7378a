"""`arche-mdlm study sweep`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable

from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.studies.engine.small.arguments import add_subset_arguments
from arche_mdlm.training.command_line import Number, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subset_arguments(parser, seeds=2)
    parser.set_defaults(positions=5_000_000)
    add = parser.add_argument
    add("--unique_tokens", type=count(1000), default=3_000_000, help="approximate number of tokens in the subset")
    add(
        "--rates",
        type=Number(float, 1e-6, 1e6),
        nargs="+",
        default=[0.25, 0.5, 1.0, 2.0, 4.0],
        help="factors of the preset's learning rates",
    )
    add(
        "--decay_shares",
        type=Number(float, 0.01, 0.99),
        nargs="+",
        default=[0.2, 0.5, 0.8],
        help="shares of the steps in which the rate falls to 0",
    )
    add("--batch_sizes", type=count(), nargs="+", default=[8, 16, 32], help="rows per step, at equal positions")
    add_running_arguments(parser, "runs/sweep")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write the report; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.engine.small.running import run_small_study
    from arche_mdlm.studies.sweep.plan import SweepSettings, build_plan
    from arche_mdlm.studies.sweep.report import FILES, write_report

    return run_small_study(args, SweepSettings, build_plan, write_report, FILES, show)
