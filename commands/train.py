"""`arche-mdlm train`: the same as `accelerate launch training/train.py`, for one process."""

import argparse
from typing import Any

from arche_mdlm.training.command_line import HelpOf


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train", help="train or fine-tune a model (all options of training/train.py)", add_help=False
    )
    parser.add_argument("-h", "--help", action=HelpOf, parser_of=_parser)
    parser.set_defaults(run=run, passes_on=True)


def _parser() -> argparse.ArgumentParser:
    from arche_mdlm.training.arguments import build_parser

    return build_parser("arche-mdlm train")


def run(args: argparse.Namespace) -> int:
    from arche_mdlm.training.train import main

    return main(args.rest)
