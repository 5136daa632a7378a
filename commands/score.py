"""`arche-mdlm score`: how likely a checkpoint finds the texts of a file."""

import argparse
from typing import Any

from arche_mdlm.checkpoints import SHIPPED
from arche_mdlm.training.command_line import HelpFormatter, add_threads, checkpoint, count


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "score",
        help="the likelihood of the texts of a file: NLL of an AR checkpoint, NELBO of an MDLM",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=checkpoint,
        default=SHIPPED["mdlm"],
        help="checkpoint folder or repository of either arm",
    )
    add("file", help="jsonl, json, csv or parquet file, or txt with <|endoftext|> between its texts; also .gz")
    add("--text_column", default="text", help="field that holds the text, nested ones as a.b")
    add("--num_samples", type=count(2), default=8, help="draws a text of the NELBO estimate")
    add("--long_documents", choices=("drop", "chunk"), default="drop", help="texts longer than the context")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score the file and print the figures; ValueError for a checkpoint or a file that cannot be read."""
    from transformers.utils import logging

    from arche_mdlm.training.data.preparing import prepare_data
    from arche_mdlm.training.loop.evaluation import Evaluator
    from arche_mdlm.training.models.arms import arm_of
    from arche_mdlm.training.models.loading import context_length, load_arm
    from arche_mdlm.training.threads import choose_threads

    logging.disable_progress_bar()
    model, tokenizer = load_arm(args.model)
    length = context_length(model)
    data = prepare_data(
        args.file, tokenizer, context_length=length, text_column=args.text_column, long_documents=args.long_documents
    )
    choose_threads(args.threads)
    score = Evaluator(data.dataset, length, tokenizer.pad_token_id, args.num_samples)(model.eval())
    kept = f"{data.summary.stories:,} texts, {data.summary.tokens:,} tokens"
    if data.summary.left_out:
        kept += f"; {data.summary.left_out:,} longer than the context of {length} left out (--long_documents chunk)"
    bound = arm_of(model).is_bound
    error = f" +- {score['validation_standard_error']:.4f}" if bound else ""
    print(kept)
    print(
        f"{'NELBO, an upper bound on the NLL' if bound else 'NLL'}: {score['validation_nats']:.4f}{error} nats a token, "
        f"{score['validation_bits_per_byte']:.4f} bits a byte, {score['validation_nats_per_story']:.1f} nats a text"
    )
    return 0
