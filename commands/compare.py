"""`arche-mdlm compare`: write stories with a trained pair and compare the two arms; the study `quickstart`."""

from typing import Any

from arche_mdlm.studies.quickstart.command import add_arguments, run
from arche_mdlm.training.command_line import HelpFormatter


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="write stories with both arms and report diversity and likelihood",
        formatter_class=HelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)
