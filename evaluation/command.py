"""lm-evaluation-harness's own command line with the model `arche_mdlm` in it: lm-eval finds no models of other packages by itself."""

import sys
from unittest import mock

from arche_mdlm.configuration.extras import require

SUBCOMMANDS = ("run", "ls", "validate")
DEFAULTS = {("--model", "-M"): "arche_mdlm", ("--batch_size", "-b"): "auto"}


def with_defaults(argv: list[str]) -> list[str]:
    """lm-eval's arguments, `run` and our defaults written out; what is given, in the command line or by a file, stays."""
    if argv and argv[0] in SUBCOMMANDS[1:]:
        return argv
    rest = argv[1:] if argv[:1] == ["run"] else argv
    given = {word.partition("=")[0] for word in rest}
    if given & {"--config", "-C"}:
        return ["run", *rest]
    missing = [part for names, value in DEFAULTS.items() if not given & set(names) for part in (names[0], value)]
    return ["run", *missing, *rest]


def main(argv: list[str]) -> int:
    """Run lm-eval; ImportError, naming the extra, without it."""
    require("evaluation", "lm_eval")
    from lm_eval.__main__ import cli_evaluate

    import arche_mdlm.evaluation.lm_eval_model  # noqa: F401  (registers the model)

    try:
        with mock.patch.object(sys, "argv", ["lm_eval", *with_defaults(argv)]):
            cli_evaluate()
    finally:
        _leave_the_group()
    return 0


def _leave_the_group() -> None:
    """Gloo can hang at exit otherwise."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
