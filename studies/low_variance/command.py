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
    add("--unique_tokens", type=count(1000), default=3_000_000, help="of the subset, about")
    add(
        "--start_positions",
        type=count(),
        default=5_000_000,
        help="of the training by nelbo that both objectives go on from, past the first plateau",
    )
    add(
        "--rates",
        type=Number(float, above=0, most=1000),
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="times the preset's learning rates; each objective has its best",
    )
    add("--clip_norm", type=Number(float, above=0), default=1e9, help="of gradients (default: none is clipped)")
    add(
        "--plateau_margin",
        type=Number(float, 0),
        default=0.25,
        help="nats a token below the unigram's at which a start is past the plateau",
    )
    add_running_arguments(parser, "runs/low-variance")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write the report; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.engine.small.running import run_small_study
    from arche_mdlm.studies.low_variance.plan import LowVarianceSettings, build_plan
    from arche_mdlm.studies.low_variance.report import FILES, write_report

    return run_small_study(args, LowVarianceSettings, build_plan, write_report, FILES, show)
