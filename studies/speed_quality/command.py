"""`arche-mdlm study speed-quality`: its options, and how it is run."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from arche_mdlm.studies.speed_quality.plan import Settings, Study
from arche_mdlm.studies.speed_quality.report import FILES, write_report
from arche_mdlm.training.command_line import SEED, TEMPERATURE, checkpoint, count, device
from arche_mdlm.training.own_files import OutputFolder, check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mdlm", type=checkpoint, default="checkpoints/mdlm-tinystories-mini", help="checkpoint folder or repository")
    add("--ar", type=checkpoint, default="checkpoints/ar-tinystories-mini", help="checkpoint folder or repository")
    add(
        "--output", type=Path, default=Path("runs/speed-quality"), help="folder of the result; holds finished cells too"
    )
    add("--samplers", nargs="+", default=[], help="default: all there are")
    add("--steps", type=count(), nargs="+", default=[8, 16, 32, 64, 128])
    add("--batch_sizes", type=count(), nargs="+", default=[1, 32], help="of the timed calls")
    add("--num_samples", type=count(2), default=64, help="stories a sampler and number of steps, for quality")
    add("--num_timed", type=count(), default=4, help="stories timed at least, a cell")
    add("--repeats", type=count(), default=3, help="calls timed at least, a cell, unless one takes over 5 s")
    add("--judge", default="smollm2", help="smollm2 (extra judge), none, or a folder or repository of a causal LM")
    add("--references", help="held-out stories (txt, jsonl, csv, parquet) for the reference row")
    add("--seed", type=SEED, default=0)
    add("--temperature", type=TEMPERATURE, default=1.0)
    add("--device", type=device, default="cpu")
    add("--threads", type=count(1, 1024), default=torch.get_num_threads())
    add("--keep_cells", action="store_true", help="keep output/cells, whose content report.json has too")
    add("--dry_run", action="store_true", help="print the plan and stop")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Measure what is left, write report.md, report.json and frontier.png; or print the plan."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    values = {name: getattr(args, name) for name in Settings.__dataclass_fields__}
    settings = Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    if not args.dry_run:
        OutputFolder(args.output, FILES).check()
        check_writable(args.output / "cells")
    study = Study(settings)
    plan = study.plan()
    left = [cell for cell in plan if study.key(cell) not in study.done]
    if args.dry_run:
        for cell in left:
            size = f", batch {cell.batch_size}" if cell.batch_size else ""
            show(f"{cell.kind:7} {cell.label}{f', {cell.steps} steps' if cell.steps else ''}{size}")
    show(f"{len(plan)} cells, {len(plan) - len(left)} of them finished, {len(left)} to measure")
    if args.dry_run:
        return 0
    study.run()
    path = write_report(study.report(), args.output)
    if not args.keep_cells:
        study.remove_cells()
    show(f"The report is in {path} (all texts and figures in {path.with_name('report.json')})")
    return 0
