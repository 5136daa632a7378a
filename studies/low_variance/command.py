"""`arche-mdlm study low-variance`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable

from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.studies.engine.small.arguments import add_subset_arguments
from arche_mdlm.training.command_line import Number, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subset_arguments(parser, seeds=11)
    parser.set_defaults(positions=10_000_000)
    add = parser.add_argument
    add("--unique_tokens", type=count(1000), default=3_000_000, help="approximate number of tokens in the subset")
    add(
        "--start_positions",
        type=count(),
        default=5_000_000,
        help="positions of the training with nelbo from which both objectives continue, after the first plateau",
    )
    add(
        "--rates",
        type=Number(float, above=0, most=1000),
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="factors of the preset's learning rates; each objective uses its best one",
    )
    add(
        "--clip_norm",
        type=Number(float, above=0),
        default=1e9,
        help="threshold of gradient clipping (default: no clipping)",
    )
    add(
        "--plateau_margin",
        type=Number(float, 0),
        default=0.25,
        help="a start is past the plateau if its bound is this many nats per token below the unigram's",
    )
    add_running_arguments(parser, "runs/low-variance")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write the report; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.engine.small.running import run_small_study
    from arche_mdlm.studies.low_variance.plan import LowVarianceSettings, build_plan
    from arche_mdlm.studies.low_variance.report import FILES, write_report

    return run_small_study(args, LowVarianceSettings, build_plan, write_report, FILES, show)
