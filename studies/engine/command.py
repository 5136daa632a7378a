"""Shared by the commands of all studies: run the jobs and write or publish the report."""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from arche_mdlm.studies.engine.jobs import Plan, StudyFolder, check_format
from arche_mdlm.studies.engine.records import packed
from arche_mdlm.studies.engine.runner import StudyRunner
from arche_mdlm.training.files.own_files import OutputFolder
from arche_mdlm.training.threads import choose_threads

SUMMARY = "summarise"  # the name of a plan's last job, which gives the report's figures
Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """The dataclass of a study's settings, each field from the option of its name."""
    values = {own.name: getattr(args, own.name) for own in fields(cast(Any, kind))}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def run_study(
    args: argparse.Namespace,
    build_plan: Callable[[], Plan],
    about: dict,
    write_report: Callable,
    files: tuple[str, ...],
    show: Callable[[str], None],
    tell: Callable[[Path], None] = lambda report: None,
    greet: Callable[[], None] = lambda: None,
) -> int:
    """Print the plan, or run its remaining jobs and write the report; 0, or 1 if a job failed.

    Args:
        build_plan: called when it is known that the output can be written.
        about: the study's settings.
        files: all that `write_report` may write. Before any work: ValueError where one is there and not ours.
        write_report: called with the summary, `about`, what failed and the folder; returns the report's path.
        tell: called with that path, to show what is in the report.
        greet: called before the first job.

    Raises RuntimeError if failed jobs prevent a report.
    """
    check_format(args.output)
    if not args.dry_run:
        OutputFolder(args.output, files).check()
        if args.publish is not None:
            _published(args.publish, files).check()
    plan = build_plan()
    without_trial = args.threads is None and (args.dry_run or args.workers > 1)
    threads = choose_threads(1 if without_trial else args.threads)
    runner = StudyRunner(args.output, plan, workers=args.workers, threads=threads, show=show, about=about)
    if args.dry_run:
        runner.dry_run()
        return 0
    greet()
    failed = runner.run()
    folder = StudyFolder(args.output, plan)
    if not folder.is_done(SUMMARY):
        own = "; ".join(f"{name}: {why}" for name, why in failed.items() if not why.startswith("skipped"))
        raise RuntimeError(
            f"report not written, because a job failed ({own}); run the same command again to run the remaining jobs"
        )
    path = write_report(folder.result(SUMMARY), about, failed, args.output)
    tell(path)
    show(f"The report is in {path}, all figures in {path.with_name('report.json')}")
    if args.publish is not None:
        show(f"published as {publish(path, args.publish, files)}")
    for name, reason in failed.items():
        show(f"not in it: {name}: {reason}")
    return 1 if failed else 0


def publish(report: Path, target: Path, files: tuple[str, ...]) -> Path:
    """Copy a report to `target`.md, its figures to `target`.json, its pictures into the folder `target`, and write the texts and nats
    behind it, if there are any, to `target`.jsonl.gz; the first of them."""
    folder, name = _published(target, files), target.name
    text = report.read_text(encoding="utf-8")
    for picture in _pictures(files):
        if (report.parent / picture).is_file():
            folder.write(f"{name}/{picture}", partial(shutil.copyfile, report.parent / picture))
            text = text.replace(f"]({picture})", f"]({name}/{picture})")
    if behind := packed(report.parent):
        folder.write(f"{name}.jsonl.gz", lambda aside: aside.write_bytes(behind))
    folder.write_text(f"{name}.json", report.with_name("report.json").read_text(encoding="utf-8"))
    return folder.write_text(f"{name}.md", text.replace("`report.json`", f"`{name}.json`"))


def _published(target: Path, files: tuple[str, ...]) -> OutputFolder:
    name = target.name
    return OutputFolder(
        target.parent, [f"{name}.md", f"{name}.json", f"{name}.jsonl.gz", *(f"{name}/{p}" for p in _pictures(files))]
    )


def _pictures(files: tuple[str, ...]) -> list[str]:
    return [name for name in files if name.endswith(".png")]
