"""`arche-mdlm`: one sub-command a module. None of them imports torch before its `run`, so that `--help` is quick."""

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from arche_mdlm.commands import chat, compare, convert, eval, generate, score, serve, study, train
from arche_mdlm.training.command_line import ArgumentParser, exit_status

COMMANDS = (compare, generate, chat, serve, score, eval, train, convert, study)


def main(argv: list[str] | None = None, before: Callable[[], None] = lambda: None) -> int:
    """Entry point; exit status 0, 2 for bad input (one line on stderr), 130 after Ctrl-C, 141 for a closed pipe.

    `before` is called once the command line is known to be right, before the command.
    """
    return exit_status(lambda: _run(argv, before))


def _run(argv: list[str] | None, before: Callable[[], None]) -> int:
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return 0
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "passes_on", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command is None:
        parser.error(f"give a command: {', '.join(command.__name__.rpartition('.')[2] for command in COMMANDS)}")
    args.rest = rest
    before()
    return args.run(args)


def build_parser() -> ArgumentParser:
    """All commands with their options; those of `train` and of each study are read by themselves."""
    parser = ArgumentParser(
        prog="arche-mdlm", description="Masked diffusion language models and an autoregressive twin."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _version() -> str:
    try:
        return version("arche-mdlm")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
