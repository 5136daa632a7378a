"""What the commands of all studies of jobs have in common: how they are run, and what becomes of the result."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from arche_mdlm.studies.job_runner import StudyRunner
from arche_mdlm.studies.jobs import Plan, StudyFolder

SUMMARY = "summarise"  # the name of a plan's last job, which gives the report's figures


def add_running_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    add = parser.add_argument
    add("--output", type=Path, default=Path(output), help="the study's folder; finished jobs in it are not done again")
    add("--workers", type=int, default=1, help="processes at a time, with a GPU each in turn; 0: all in this one")
    add("--threads", type=int, default=1, help="of each process")
    add("--publish", type=Path, metavar="FILE", help="copy the report to FILE.md, FILE.json and FILE/, to be committed")
    add("--dry_run", action="store_true", help="print the jobs, with an estimate of time, and stop")


def run_plan(
    args: argparse.Namespace, plan: Plan, about: dict, write_report: Callable, show: Callable[[str], None]
) -> tuple[int, Path | None]:
    """(exit status, report): print the plan (no report), or run what is left of it and write the report.

    Args:
        about: the study's settings.
        write_report: called with the summary, `about`, what failed and the folder; returns the report's path.

    The status is 1 if a job failed.
    """
    runner = StudyRunner(args.output, plan, workers=args.workers, threads=args.threads, show=show, about=about)
    if args.dry_run:
        runner.dry_run()
        return 0, None
    failed = runner.run()
    folder = StudyFolder(args.output, plan)
    if not folder.is_done(SUMMARY):
        raise RuntimeError(f"there is no report, because the job {SUMMARY} failed: {failed[SUMMARY]}")
    path = write_report(folder.result(SUMMARY), about, failed, args.output)
    show(f"The report is in {path}, all figures in {path.with_name('report.json')}")
    if args.publish is not None:
        show(f"published as {publish(path, args.publish)}")
    for name, reason in failed.items():
        show(f"not in it: {name}: {reason}")
    return (1 if failed else 0), path


def publish(report: Path, target: Path) -> Path:
    """Copy a report to `target`.md, its figures to `target`.json, its pictures into the folder `target`; the first of them."""
    text, pictures = report.read_text(encoding="utf-8"), sorted(report.parent.glob("*.png"))
    target.parent.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        target.mkdir(exist_ok=True)
        shutil.copyfile(picture, target / picture.name)
        text = text.replace(f"]({picture.name})", f"]({target.name}/{picture.name})")
    shutil.copyfile(report.with_name("report.json"), target.with_name(f"{target.name}.json"))
    page = target.with_name(f"{target.name}.md")
    page.write_text(text.replace("`report.json`", f"`{target.name}.json`"), encoding="utf-8")
    return page
