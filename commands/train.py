"""`arche-mdlm train`: the same as `accelerate launch training/train.py`, for one process."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train", help="train or fine-tune an arm (all options of training/train.py)", add_help=False
    )
    parser.add_argument("-h", "--help", action="store_true", dest="train_help")
    parser.set_defaults(run=run, passes_on=True)


def run(args: argparse.Namespace) -> int:
    from arche_mdlm.training.train import main

    return main(["--help"] if args.train_help else args.rest)
