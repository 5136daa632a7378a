"""`arche-mdlm study NAME`: the studies of `studies/registry.py`."""

import argparse
from functools import partial
from importlib import import_module
from typing import Any

from arche_mdlm.studies.registry import STUDIES
from arche_mdlm.training.command_line import ArgumentParser, HelpFormatter, HelpOf


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("study", help="run a study")
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, (_, text) in STUDIES.items():
        # The study's options are read in `run`, by its own module.
        own = studies.add_parser(name, help=text, add_help=False)
        own.add_argument("-h", "--help", action=HelpOf, parser_of=partial(study_parser, name))
    parser.set_defaults(run=run, passes_on=True)


def study_parser(name: str) -> ArgumentParser:
    """The options of the study of this name."""
    module, text = STUDIES[name]
    parser = ArgumentParser(prog=f"arche-mdlm study {name}", description=text, formatter_class=HelpFormatter)
    import_module(module).add_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Read the study's own options and run it."""
    return import_module(STUDIES[args.study][0]).run(study_parser(args.study).parse_args(args.rest))
