"""`arche-mdlm study arche`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.studies.arche.settings import ArcheSettings
from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.training.command_line import SEED, TEMPERATURE, count

if TYPE_CHECKING:
    from arche_mdlm.studies.engine.jobs import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, ArcheSettings()
    add("--preset", default=default.preset, help="preset family with the arms mdlm and ar")
    add("--data", help="training stories: Hub id, folder or file (default: from the preset)")
    add("--validation_data", help="file with held-out stories, for rows (windows are split as in the paper)")
    add("--max_steps", type=count(), help="training steps (default: from the preset)")
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="set a preset key in both arms")
    add("--num_samples", type=count(4), default=default.num_samples)
    add("--short_length", type=count(6), default=default.short_length, help="tokens per text in the paper")
    add("--num_diffusion_steps", type=count(), default=default.num_diffusion_steps)
    add("--temperature", type=TEMPERATURE, default=default.temperature)
    add("--batch_size", type=count(), default=default.batch_size, help="texts per batch")
    add(
        "--likelihood_rows",
        type=count(),
        default=default.likelihood_rows,
        help="held-out rows or windows for the comparison of the models with a bigram",
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=SEED, default=default.seed, help="seed of training and sampling")
    seeds.add_argument("--seeds", type=SEED, nargs="+", help="several seeds; figures are means over them")
    add_running_arguments(parser, "runs/arche")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs, write report.md and report.json and print the tables; 1 if a job failed. Or print the plan."""

    from arche_mdlm.studies.arche.jobs import check_data
    from arche_mdlm.studies.arche.plan import build_plan
    from arche_mdlm.studies.arche.report import FILES, write_report
    from arche_mdlm.studies.engine.command import run_study, settings_of

    settings = settings_of(ArcheSettings, args)
    device = default_device()

    def plan() -> "Plan":
        found = build_plan(settings, device)
        if not args.dry_run:
            check_data(settings)
        return found

    return run_study(
        args, plan, asdict(settings), write_report, FILES, show, lambda path: show(path.read_text(encoding="utf-8"))
    )
