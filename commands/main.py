"""`arche-mdlm`: one sub-command a module. Heavy imports happen inside `run`, so that `--help` is quick."""

import sys

from arche_mdlm.commands import compare, convert, generate, study, train
from arche_mdlm.training.command_line import ArgumentParser, exit_status

COMMANDS = (compare, generate, train, convert, study)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for bad input (one line on stderr), 130 after Ctrl-C, 141 for a closed pipe."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = ArgumentParser(
        prog="arche-mdlm", description="Masked diffusion language models beside an autoregressive twin."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "passes_on", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
