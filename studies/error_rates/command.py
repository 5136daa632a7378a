"""`arche-mdlm study error-rates`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.studies.error_rates.settings import LANGUAGES, LEFT_OUT, ErrorRatesSettings
from arche_mdlm.training.command_line import SEED, Number, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, ErrorRatesSettings()
    add("--languages", nargs="+", default=list(LANGUAGES), help="languages: ngram, hmm")
    add("--lengths", type=count(2), nargs="+", default=list(default.lengths), help="tokens per sequence")
    add("--samplers", nargs="+", default=[], help=f"samplers of the oracle (default: all except {', '.join(LEFT_OUT)})")
    add(
        "--num_samples",
        type=count(2),
        default=default.num_samples,
        help="texts of the oracle per sampler and number of steps",
    )
    add("--smoothing", type=Number(float, most=0.999, above=0), default=default.smoothing,
        help="share of uniform probability, for a finite perplexity of impossible text")  # fmt: skip
    add("--language_seed", type=SEED, default=default.language_seed)
    add(
        "--order",
        type=count(1),
        default=default.order,
        help="number of previous tokens that a token depends on (ngram)",
    )
    add("--ngram_vocab_size", type=count(4), default=default.ngram_vocab_size)
    add("--hmm_states", type=count(2), default=default.hmm_states)
    add("--hmm_vocab_size", type=count(4), default=default.hmm_vocab_size)
    add("--trained_languages", nargs="*", default=list(default.trained_languages), help="languages to train models on")
    add("--trained_samplers", nargs="+", default=list(default.trained_samplers))
    add("--seeds", type=SEED, nargs="+", default=list(default.seeds), help="seeds of training")
    add("--positions", type=count(), default=default.positions, help="training positions per model")
    add(
        "--trained_samples",
        type=count(2),
        default=default.trained_samples,
        help="texts per model, sampler and number of steps",
    )
    add("--batch_positions", type=count(), default=default.batch_positions, help="positions per training step")
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="set a preset key")
    add("--oracle_batch_size", type=count(), default=default.oracle_batch_size)
    add("--batch_size", type=count(), default=default.batch_size, help="texts of a trained model per batch")
    add_running_arguments(parser, "runs/error-rates")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write the report; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.engine.command import run_study, settings_of
    from arche_mdlm.studies.error_rates.plan import build_plan
    from arche_mdlm.studies.error_rates.report import FILES, write_report

    settings = settings_of(ErrorRatesSettings, args)
    return run_study(args, partial(build_plan, settings, default_device()), asdict(settings), write_report, FILES, show)
