"""`arche-mdlm compare`, also `arche-mdlm study quickstart`: its options, and how it is run. Imports nothing heavy before."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.training.command_line import SEED, TEMPERATURE, add_pair, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_pair(parser)
    add("--num_samples", type=count(2), default=200, help="unprompted stories per arm")
    add("--temperature", type=TEMPERATURE, default=1.0)
    add("--num_diffusion_steps", type=count(), default=64)
    add("--batch_size", type=count(), default=50)
    add("--seed", type=SEED, default=0)
    add("--references", help="held-out stories (txt, jsonl, csv, parquet); default: the committed figures")
    add(
        "--data",
        help="held-out stories for the likelihoods; default: figures of the model cards, and the sample corpus",
    )
    add("--likelihood_samples", type=count(2), default=4, help="draws per story for the NELBO estimate")
    add(
        "--count",
        choices=("words", "characters"),
        default="words",
        help="units of the diversity figures; Chinese needs characters",
    )
    add_running_arguments(parser, "runs/quickstart", here=True)


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs, write the report, and print its main figures; 1 if a job failed. Or print the plan."""
    from transformers.utils import logging

    from arche_mdlm.studies.engine.command import run_study, settings_of
    from arche_mdlm.studies.quickstart.plan import ComparisonSettings, build_plan
    from arche_mdlm.studies.quickstart.report import FILES, write_report

    logging.disable_progress_bar()
    settings = settings_of(ComparisonSettings, args)
    plan, tell = partial(build_plan, settings), partial(_tell, show=show)
    return run_study(args, plan, asdict(settings), write_report, FILES, show, tell, partial(_greet, settings, show))


def _greet(settings: Any, show: Callable[[str], None]) -> None:
    from arche_mdlm.studies.quickstart.first_look import show_first
    from arche_mdlm.studies.quickstart.plan import load_pair

    show_first(load_pair(settings), settings.cooler, show)
    show("Now the whole comparison, which takes some minutes.\n")


def _tell(path: Path, show: Callable[[str], None]) -> None:
    report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
    for name, arm in report["arms"].items():
        show(f"\n=== {name} writes ===\n\n{arm['prompted'][0]['text']}\n\n{arm['unprompted'][0]['text']}")
    show("\n=== figures ===")
    for name, arm in report["arms"].items():
        show(f"{name:5} {_diversity(arm['diversity'])}; {arm['stories_per_second']:.1f} stories/s")
        for corpus, score in arm["likelihood"].items():
            bits = "" if score["bits_per_byte"] is None else f", {score['bits_per_byte']:.3f} bits a byte"
            show(f"      {score['nats_per_token']:.3f} nats a token{bits} ({corpus})")
    if report["reference"]:
        show(f"real  {_diversity(report['reference']['figures'])} (held-out stories)")
    show("")


def _diversity(figures: dict | None) -> str:
    if figures is None:
        return "every text is empty"
    return (
        f"Distinct-2 {figures['distinct_2']:.3f}, Self-BLEU {figures['self_bleu']:.3f}, first words "
        f"{figures['distinct_first_words']:.1%}, openings {figures['distinct_openings']:.1%}"
    )
