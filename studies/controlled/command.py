"""`arche-mdlm study controlled`: its options, and how it is run. Imports nothing heavy before."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.studies.controlled.settings import MDLM_OBJECTIVES, PROMPTS, ControlledSettings
from arche_mdlm.studies.engine.arguments import add_running_arguments
from arche_mdlm.training.command_line import SEED, TEMPERATURE, count

if TYPE_CHECKING:
    from arche_mdlm.studies.engine.jobs import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, ControlledSettings()
    add("--preset", default=default.preset, help="preset family with the arms mdlm and ar: controlled, mini, ...")
    add("--data", help="training stories: Hub id, folder or file (default: from the preset)")
    add("--validation_data", help="file with the held-out stories")
    add("--seeds", type=SEED, nargs="+", default=list(default.seeds), help="seeds of training")
    add("--objectives", nargs="+", default=list(MDLM_OBJECTIVES), help="objectives of MDLM")
    add("--max_steps", type=count(), help="training steps (default: from the preset)")
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="set a preset key in both arms")
    add(
        "--num_samples",
        type=count(4),
        default=default.num_samples,
        help="stories per checkpoint, prompt and temperature",
    )
    add("--temperatures", type=TEMPERATURE, nargs="+", default=list(default.temperatures))
    add("--prompts", nargs="+", default=list(PROMPTS), help="bos (no prompt), opening (8 tokens of held-out stories)")
    add("--num_diffusion_steps", type=count(), default=default.num_diffusion_steps)
    add("--batch_size", type=count(), default=default.batch_size, help="texts per batch")
    add(
        "--cut_tokens",
        type=count(5),
        default=default.cut_tokens,
        help="compare whole texts, and texts cut to this number of tokens",
    )
    add("--likelihood_samples", type=count(2), default=default.likelihood_samples, help="draws per story for the NELBO")
    add(
        "--exact_stories",
        type=count(2),
        default=default.exact_stories,
        help="held-out stories for MDLM's exact left-to-right likelihood",
    )
    add("--no_matched", action="store_false", dest="matched", help="omit the two AR runs stopped at MDLM's likelihood")
    add("--judge", default=default.judge, help="smollm2 (extra judge), none, or a folder or repository of a causal LM")
    add("--judge_samples", type=count(2), help="number of texts per set for the judge (default: all)")
    add("--scale", default="", help="name of the scale in the report (default: from the preset)")
    add_running_arguments(parser, "runs/controlled")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run the remaining jobs and write `report.md` and `report.json`; 1 if a job failed. Or print the plan."""

    from arche_mdlm.studies.controlled.jobs import check_held_out
    from arche_mdlm.studies.controlled.plan import build_plan, data_settings
    from arche_mdlm.studies.controlled.report import FILES, write_report
    from arche_mdlm.studies.controlled.texts import check_judge
    from arche_mdlm.studies.engine.command import run_study, settings_of

    settings = settings_of(ControlledSettings, args)
    device = default_device()

    def plan() -> "Plan":
        found = build_plan(settings, device)
        if not args.dry_run:
            check_judge(settings.judge)
            own = data_settings(settings, settings.arm("mdlm"))
            check_held_out(own | {"num_samples": settings.num_samples, "prompts": settings.prompts})
        return found

    return run_study(args, plan, asdict(settings), write_report, FILES, show)
