"""`arche-mdlm compare`: write stories with a trained pair and compare the two arms."""

import argparse
from pathlib import Path

from arche_mdlm.training.command_line import SEED, TEMPERATURE, checkpoint, count

SHIPPED = Path("checkpoints")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="write stories with both arms and report diversity and likelihood",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--mdlm",
        type=checkpoint,
        default=str(SHIPPED / "mdlm-tinystories-mini"),
        help="checkpoint folder or repository",
    )
    add("--ar", type=checkpoint, default=str(SHIPPED / "ar-tinystories-mini"), help="checkpoint folder or repository")
    add(
        "--output",
        type=Path,
        default=Path("runs/quickstart"),
        help="folder of the report; the same command goes on where it was stopped",
    )
    add("--num_samples", type=count(2), default=200, help="unprompted stories an arm")
    add("--temperature", type=TEMPERATURE, default=1.0)
    add("--num_diffusion_steps", type=count(), default=64)
    add("--batch_size", type=count(), default=50)
    add("--seed", type=SEED, default=0)
    add("--references", help="held-out stories (txt, jsonl, csv, parquet); default: the committed figures")
    add("--data", help="held-out stories for the likelihoods; default: the card's figures and the sample corpus")
    add("--likelihood_samples", type=count(2), default=4, help="draws a story of the NELBO estimate")
    add(
        "--count",
        choices=("words", "characters"),
        default="words",
        help="what the diversity is of; Chinese needs characters",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, write the report, and show its essence on the terminal."""
    from transformers.utils import logging

    from arche_mdlm.studies.quickstart.comparison import ComparisonSettings, compare
    from arche_mdlm.studies.quickstart.report import write_report

    logging.disable_progress_bar()
    names = ComparisonSettings.__dataclass_fields__
    report = compare(ComparisonSettings(**{name: getattr(args, name) for name in names}))
    _show(report)
    path = write_report(report, args.output)
    print(f"\nThe report is in {path} (all stories and figures in {path.with_name('report.json')})")
    return 0


def _show(report: dict) -> None:
    for name, arm in report["arms"].items():
        print(f"\n=== {name} writes ===\n\n{arm['prompted'][0]['text']}\n\n{arm['unprompted'][0]['text']}")
    print("\n=== figures ===")
    for name, arm in report["arms"].items():
        print(f"{name:5} {_diversity(arm['diversity'])}; {arm['stories_per_second']:.1f} stories/s")
        for corpus, score in arm["likelihood"].items():
            bits = "" if score["bits_per_byte"] is None else f", {score['bits_per_byte']:.3f} bits a byte"
            print(f"      {score['nats_per_token']:.3f} nats a token{bits} ({corpus})")
    if report["reference"]:
        print(f"real  {_diversity(report['reference']['figures'])} (held-out stories)")


def _diversity(figures: dict | None) -> str:
    if figures is None:
        return "every text is empty"
    return (
        f"Distinct-2 {figures['distinct_2']:.3f}, Self-BLEU {figures['self_bleu']:.3f}, first words "
        f"{figures['distinct_first_words']:.1%}, openings {figures['distinct_openings']:.1%}"
    )
