"""`arche-mdlm compare`: a trained pair, the study `quickstart`; with `--families` several models, the study `families`."""

import argparse
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from arche_mdlm.studies.registry import STUDIES
from arche_mdlm.training.command_line import ArgumentParser, HelpFormatter, HelpOf

_FLAG = "--families"


class _Help(HelpOf):
    """Of `compare`, or of `compare --families`."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, *rest: Any) -> None:
        self.parser_of = partial(compare_parser, namespace.families)
        super().__call__()


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="generate stories with both arms and report diversity and likelihood; or compare diffusion families",
        add_help=False,
    )
    # Both studies' options are read in `run`, by their own modules.
    parser.add_argument("-h", "--help", action=_Help, parser_of=compare_parser)
    parser.add_argument(_FLAG, action="store_true")
    parser.set_defaults(run=run, passes_on=True)


def compare_parser(families: bool = False) -> argparse.ArgumentParser:
    """The options of `arche-mdlm compare`, or of `arche-mdlm compare --families`."""
    about = "Several diffusion models of any family and one AR twin, in one table: likelihood, quality and speed."
    if not families:
        about = f"Compare a trained pair: stories, diversity, likelihood. {_FLAG} --help shows the options for several models."
    parser = ArgumentParser(
        prog="arche-mdlm compare" + (f" {_FLAG}" if families else ""), description=about, formatter_class=HelpFormatter
    )
    if not families:
        parser.add_argument(
            _FLAG,
            action="store_true",
            help="compare diffusion families instead (see arche-mdlm compare --families --help)",
        )
    _study(families).add_arguments(parser)
    return parser


def _study(families: bool) -> ModuleType:
    return import_module(STUDIES["families" if families else "quickstart"][0])


def run(args: argparse.Namespace) -> int:
    """Read the study's own options and run it."""
    return _study(args.families).run(compare_parser(args.families).parse_args(args.rest))
