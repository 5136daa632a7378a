"""The options of studies of small trainings on subsets of stories. Imports nothing heavy."""

import argparse

from arche_mdlm.training.command_line import SEED, count


def add_subset_arguments(parser: argparse.ArgumentParser, seeds: int = 5) -> None:
    """Options for the fields of `small.plan.SubsetSettings`."""
    add = parser.add_argument
    add("--data", help="stories (txt, jsonl, csv, parquet); each seed uses a random subset")
    add("--validation_data", help="held-out stories (default: stories of --data that are not in the subset)")
    add("--seeds", type=SEED, nargs="+", default=list(range(seeds)), help="seeds of the subset and of training")
    add("--positions", type=count(), default=20_000_000, help="positions per training: steps times rows times context")
    add("--batch_size", type=count(), default=16, help="rows per step")
    add("--context_length", type=count(8), default=128)
    add("--vocab_size", type=count(260), default=512, help="vocabulary size of the BPE trained on the subset")
    add("--evaluations", type=count(2), default=20, help="number of evaluations, evenly spaced over the steps")
    add(
        "--evaluation_rows",
        type=count(2),
        default=128,
        help="evaluated rows of the training stories, and of each half of the held-out stories",
    )
    add("--evaluation_draws", type=count(2), default=2, help="draws per row for MDLM's bound")
    add(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="set a preset key in all trainings",
    )
