"""`arche-mdlm study NAME`: the studies of `studies/registry.py`."""

import argparse
from importlib import import_module
from typing import Any

from arche_mdlm.studies.registry import STUDIES
from arche_mdlm.training.command_line import ArgumentParser


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("study", help="a study of a trained pair")
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, (_, text) in STUDIES.items():
        # The study's options are read in `run`: its module imports torch.
        own = studies.add_parser(name, help=text, add_help=False)
        own.add_argument("-h", "--help", action="store_true", dest="study_help")
    parser.set_defaults(run=run, passes_on=True)


def run(args: argparse.Namespace) -> int:
    """Read the study's own options and run it."""
    name, text = STUDIES[args.study]
    module = import_module(name)
    parser = ArgumentParser(
        prog=f"arche-mdlm study {args.study}",
        description=text,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(["--help"] if args.study_help else args.rest))
