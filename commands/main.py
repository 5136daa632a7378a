"""`arche-mdlm`: one sub-command a module. Heavy imports happen inside `run`, so that `--help` is quick."""

import sys

from arche_mdlm import __version__
from arche_mdlm.commands import compare, convert, generate, score, study, train
from arche_mdlm.training.command_line import ArgumentParser, exit_status

COMMANDS = (compare, generate, score, train, convert, study)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for bad input (one line on stderr), 130 after Ctrl-C, 141 for a closed pipe."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = ArgumentParser(
        prog="arche-mdlm", description="Masked diffusion language models beside an autoregressive twin."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return 0
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "passes_on", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command is None:
        parser.error(f"give a command: {', '.join(subparsers.choices)}")
    args.rest = rest
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
