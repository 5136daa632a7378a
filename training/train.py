"""Train one arm: `accelerate launch training/train.py --preset mini-mdlm --data FILE_OR_HUB_ID`."""

import sys

from arche_mdlm.training.command_line import INTERRUPTED, exit_status


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit status: 0 complete or stopped as asked, 130 stopped by a signal, 2 an error, in one line."""
    return exit_status(lambda: _train(argv))


def _train(argv: list[str] | None) -> int:
    from arche_mdlm.training.arguments import build_parser, request_of

    words = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(words)
    import torch

    from arche_mdlm.training.loop.provenance import portable
    from arche_mdlm.training.run import run
    from arche_mdlm.training.threads import choose_threads

    choose_threads(args.threads)
    try:
        result = run(request_of(args, " ".join(["training/train.py", *portable(words)])))
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"raise --accumulation, or lower --batch_size ({error})") from error
    return INTERRUPTED if result.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
