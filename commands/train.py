"""`arche-mdlm train`: the same as `accelerate launch training/train.py`, for one process."""

import argparse
from typing import Any


class _Help(argparse.Action):
    """Prints all options of training."""

    def __call__(self, *args: Any) -> None:
        from arche_mdlm.training.arguments import build_parser

        build_parser("arche-mdlm train").print_help()
        raise SystemExit(0)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train", help="train or fine-tune an arm (all options of training/train.py)", add_help=False
    )
    parser.add_argument("-h", "--help", action=_Help, nargs=0)
    parser.set_defaults(run=run, passes_on=True)


def run(args: argparse.Namespace) -> int:
    from arche_mdlm.training.train import main

    return main(args.rest)
