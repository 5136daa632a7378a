"""`arche-mdlm score`: how likely a checkpoint finds the texts of a file, or completions given their prompts."""

import argparse
import math
from typing import Any, cast

from arche_mdlm.checkpoints import SHIPPED
from arche_mdlm.training.command_line import HelpFormatter, add_threads, checkpoint, count


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "score",
        help="compute the likelihood of the texts in a file: NLL of an AR checkpoint, NELBO of an MDLM",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=checkpoint,
        default=SHIPPED["mdlm"],
        help="checkpoint folder or repository, MDLM or AR",
    )
    add("file", help="jsonl, json, csv or parquet file, or txt with <|endoftext|> between texts; also .gz")
    add("--text_column", default="text", help="field with the text; a.b for nested fields")
    add(
        "--prompt_column",
        metavar="NAME",
        help="field with a prompt: score the text given the prompt, without a final EOS",
    )
    add("--num_samples", type=count(2), default=8, help="draws per text for the NELBO estimate")
    add(
        "--long_documents",
        choices=("drop", "chunk"),
        default="drop",
        help="what to do with texts longer than the context",
    )
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score the file and print the figures; ValueError for a checkpoint or a file that cannot be read."""
    from transformers.utils import logging

    if args.prompt_column is not None:
        return _score_pairs(args)
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


def _score_pairs(args: argparse.Namespace) -> int:
    """Print the figures of completions given their prompts."""
    from transformers.utils import logging

    from arche_mdlm.evaluation.pair_likelihood import pair_likelihoods
    from arche_mdlm.training.models.arms import arm_of
    from arche_mdlm.training.models.loading import load_arm
    from arche_mdlm.training.threads import choose_threads

    if args.long_documents != "drop":
        raise ValueError(
            f"--long_documents {args.long_documents} works only for whole texts: a prompt and its completion cannot be split"
        )
    logging.disable_progress_bar()
    texts = _read_pairs(args)
    model, tokenizer = load_arm(args.model)
    pairs, num_bytes, context = [], 0, model.config.max_position_embeddings
    for number, (prompt, completion) in enumerate(texts, 1):
        given = tokenizer(prompt, verbose=False)["input_ids"]
        scored = tokenizer(prompt + completion, verbose=False)["input_ids"][len(given) :]
        if not scored:
            raise ValueError(
                f"{args.file}: the {args.text_column} of pair {number} is empty; it needs at least one character"
            )
        if len(given) + len(scored) <= context:
            pairs.append((given, scored))
            num_bytes += len(completion.encode())
    if not pairs:
        raise ValueError(f"{args.file}: no pair fits the context of {context} tokens")
    choose_threads(args.threads)
    found = pair_likelihoods(model.eval(), pairs, num_samples=args.num_samples, progress=True)
    num_tokens = sum(len(scored) for _, scored in pairs)
    left_out = len(texts) - len(pairs)
    print(
        f"{len(pairs):,} completions, {num_tokens:,} tokens"
        + (f"; {left_out:,} longer with their prompts than the context of {context} left out" if left_out else "")
    )
    total, error = float(found.nats.sum()), float(found.standard_error.square().sum().sqrt())
    bound = arm_of(model).is_bound
    print(
        f"{'NELBO, an upper bound on the NLL' if bound else 'NLL'} given the prompts: {total / num_tokens:.4f}"
        f"{f' +- {error / num_tokens:.4f}' if bound else ''} nats a token, {total / math.log(2) / num_bytes:.4f} bits a byte, "
        f"{total / len(pairs):.1f} nats a completion"
    )
    return 0


def _read_pairs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Prompts and completions of the file; ValueError for one that lacks either, or has no such columns."""
    from pathlib import Path

    from arche_mdlm.training.data.formats import Format
    from arche_mdlm.training.data.readers import kind_of, read_items

    path = Path(args.file)
    if not path.is_file() or kind_of(path) in (None, ".txt"):
        raise ValueError(f"--prompt_column needs a jsonl, json, csv or parquet file, not {args.file!r}")
    columns = (read_items(path, Format(text=name)) for name in (args.prompt_column, args.text_column))
    pairs = [cast(tuple[str | None, str | None], pair) for pair in zip(*columns, strict=True)]
    for number, pair in enumerate(pairs, 1):
        if None in pair:
            name = args.prompt_column if pair[0] is None else args.text_column
            raise ValueError(f"{args.file}: the {name} of pair {number} is null; give a text")
    return [(prompt or "", completion or "") for prompt, completion in pairs]
