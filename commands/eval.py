"""`arche-mdlm eval`: lm-evaluation-harness with a checkpoint of either arm."""

import argparse
from typing import Any

from arche_mdlm.training.command_line import ArgumentParser, HelpFormatter, HelpOf

EPILOG = """all options of `lm_eval run` (`lm_eval run --help`), and `ls tasks`. Several processes: accelerate launch -m
arche_mdlm.evaluation, with the same options. docs/evaluation.md has the commands for LAMBADA, HellaSwag, MMLU and GSM8K."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval", help="tasks of lm-evaluation-harness (all options of lm_eval)", add_help=False
    )
    parser.add_argument("-h", "--help", action=HelpOf, parser_of=_parser)
    parser.set_defaults(run=run, passes_on=True)


def _parser() -> ArgumentParser:
    """What the help shows; lm-eval reads the options."""
    parser = ArgumentParser(prog="arche-mdlm eval", epilog=EPILOG, formatter_class=HelpFormatter)
    parser.add_argument(
        "--model_args", metavar="pretrained=FOLDER,...", required=True, help="checkpoint, num_samples, sampler, ..."
    )
    parser.add_argument(
        "--tasks", metavar="NAME", nargs="+", required=True, help="as lm_eval names them, or YAML files"
    )
    parser.add_argument("--batch_size", metavar="N", default="auto", help="canvases a forward")
    parser.add_argument("--output_path", metavar="FOLDER", help="where lm-eval writes its results")
    return parser


def run(args: argparse.Namespace) -> int:
    from arche_mdlm.evaluation.command import main

    return main(args.rest)
