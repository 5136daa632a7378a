"""`arche-mdlm eval`: lm-evaluation-harness with a checkpoint of either arm."""

import argparse
from typing import Any

from arche_mdlm.training.command_line import ArgumentParser, HelpFormatter, HelpOf

EPILOG = """All options of `lm_eval run` work (`lm_eval run --help`), and `ls tasks`. For several processes: accelerate launch -m
arche_mdlm.evaluation, with the same options. docs/evaluation.md has the commands for LAMBADA, HellaSwag, MMLU and GSM8K."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval", help="run tasks of lm-evaluation-harness (all options of lm_eval)", add_help=False
    )
    parser.add_argument("-h", "--help", action=HelpOf, parser_of=_parser)
    parser.set_defaults(run=run, passes_on=True)


def _parser() -> ArgumentParser:
    """What the help shows; lm-eval reads the options."""
    parser = ArgumentParser(prog="arche-mdlm eval", epilog=EPILOG, formatter_class=HelpFormatter)
    parser.add_argument(
        "--model_args",
        metavar="pretrained=FOLDER,...",
        required=True,
        help="options of the model: pretrained, num_samples, sampler, ...",
    )
    parser.add_argument(
        "--tasks", metavar="NAME", nargs="+", required=True, help="task names of lm_eval, or YAML files"
    )
    parser.add_argument("--batch_size", metavar="N", default="auto", help="canvases per forward")
    parser.add_argument("--output_path", metavar="FOLDER", help="folder for the results of lm-eval")
    return parser


def run(args: argparse.Namespace) -> int:
    from arche_mdlm.evaluation.command import main

    return main(args.rest)
