"""How the command of a study of small trainings runs it."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.studies.engine.command import run_study, settings_of
from arche_mdlm.studies.engine.jobs import Plan
from arche_mdlm.studies.engine.small.plan import SubsetSettings
from arche_mdlm.studies.engine.small.subsets import check_stories

Settings = TypeVar("Settings", bound=SubsetSettings)


def run_small_study(
    args: argparse.Namespace,
    kind: type[Settings],
    build_plan: Callable[[Settings, str], Plan],
    write_report: Callable,
    files: tuple[str, ...],
    show: Callable[[str], None],
) -> int:
    """`run_study` with the settings `kind` from the options; before any job it is checked that there are stories enough."""
    settings = settings_of(kind, args)

    def plan() -> Plan:
        if not args.dry_run:
            check_stories(settings)
        return build_plan(settings, default_device())

    return run_study(args, plan, asdict(settings), write_report, files, show)
