"""What the commands of all studies of jobs have in common: how they are run, and what becomes of the result."""

import argparse
from collections.abc import Callable
from pathlib import Path

from arche_mdlm.studies.engine.jobs import Plan, StudyFolder
from arche_mdlm.studies.engine.runner import StudyRunner
from arche_mdlm.training.command_line import count
from arche_mdlm.training.own_files import OutputFolder

SUMMARY = "summarise"  # the name of a plan's last job, which gives the report's figures


def add_running_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    add = parser.add_argument
    add("--output", type=Path, default=Path(output), help="the study's folder; finished jobs in it are not done again")
    add(
        "--workers",
        type=count(0, 1024),
        default=1,
        help="processes at a time, with a GPU each in turn; 0: all in this one",
    )
    add("--threads", type=count(1, 1024), default=1, help="of each process")
    add("--publish", type=Path, metavar="FILE", help="copy the report to FILE.md, FILE.json and FILE/, to be committed")
    add("--dry_run", action="store_true", help="print the jobs, with an estimate of time, and stop")


def run_plan(
    args: argparse.Namespace,
    plan: Plan,
    about: dict,
    write_report: Callable,
    show: Callable[[str], None],
    files: tuple[str, ...],
) -> tuple[int, Path | None]:
    """(exit status, report): print the plan (no report), or run what is left of it and write the report.

    Args:
        about: the study's settings.
        files: all that `write_report` may write. Before any job runs: ValueError where one is there and not ours.
        write_report: called with the summary, `about`, what failed and the folder; returns the report's path.

    The status is 1 if a job failed.
    """
    runner = StudyRunner(args.output, plan, workers=args.workers, threads=args.threads, show=show, about=about)
    if args.dry_run:
        runner.dry_run()
        return 0, None
    OutputFolder(args.output, files).check()
    if args.publish is not None:
        _published(args.publish, files).check()
    failed = runner.run()
    folder = StudyFolder(args.output, plan)
    if not folder.is_done(SUMMARY):
        raise RuntimeError(f"there is no report, because the job {SUMMARY} failed: {failed[SUMMARY]}")
    path = write_report(folder.result(SUMMARY), about, failed, args.output)
    show(f"The report is in {path}, all figures in {path.with_name('report.json')}")
    if args.publish is not None:
        show(f"published as {publish(path, args.publish, files)}")
    for name, reason in failed.items():
        show(f"not in it: {name}: {reason}")
    return (1 if failed else 0), path


def publish(report: Path, target: Path, files: tuple[str, ...]) -> Path:
    """Copy a report to `target`.md, its figures to `target`.json, its pictures into the folder `target`; the first of them."""
    folder, name = _published(target, files), target.name
    text = report.read_text(encoding="utf-8")
    for picture in _pictures(files):
        if (report.parent / picture).is_file():
            content = (report.parent / picture).read_bytes()
            folder.write(f"{name}/{picture}", lambda path, content=content: path.write_bytes(content))
            text = text.replace(f"]({picture})", f"]({name}/{picture})")
    folder.write_text(f"{name}.json", report.with_name("report.json").read_text(encoding="utf-8"))
    return folder.write_text(f"{name}.md", text.replace("`report.json`", f"`{name}.json`"))


def _published(target: Path, files: tuple[str, ...]) -> OutputFolder:
    name = target.name
    return OutputFolder(target.parent, [f"{name}.md", f"{name}.json", *(f"{name}/{p}" for p in _pictures(files))])


def _pictures(files: tuple[str, ...]) -> list[str]:
    return [name for name in files if name.endswith(".png")]
