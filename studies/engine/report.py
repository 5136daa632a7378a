"""A study's report: report.md, report.json with all figures, pictures, and how it was made."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from arche_mdlm.studies.engine.plots import can_draw
from arche_mdlm.studies.engine.trainings import training_command
from arche_mdlm.training.files.own_files import OutputFolder
from arche_mdlm.training.loop.provenance import portable

Pictures = dict[str, str]  # caption by file name


def write_report(
    output: Path,
    files: tuple[str, ...],
    report: dict,
    failed: dict[str, str],
    draw: Callable[[dict, OutputFolder], Pictures],
    sections: Callable[[dict, Pictures], list[str]],
) -> Path:
    """Write the report of the study in the folder `output`, and only that; returns report.md.

    Args:
        files: names of all files that may be written.
        report: the figures; what failed and how all was made are added.
        failed: reasons by job.
        draw: writes the pictures that there is data for. Without matplotlib it is not called.
        sections: the parts of report.md, empty ones left out.

    Raises ValueError where one of the files is there already and not ours.
    """
    folder = OutputFolder(output, files)
    report = portable({**report, "failed": _without_path(failed, Path(output)), **_provenance(Path(output))})
    pictures = draw(report, folder) if can_draw() else {}
    folder.write_json("report.json", report)
    return folder.write_text("report.md", "\n\n".join(part for part in sections(report, pictures) if part) + "\n")


def _without_path(failed: dict[str, str], root: Path) -> dict[str, str]:
    """Reasons for a report: the study's folder by its name only."""
    places = sorted({str(root), str(root.resolve())}, key=len, reverse=True)
    found = dict(failed)
    for name in found:
        for place in places:
            found[name] = found[name].replace(place, root.name)
    return found


def _provenance(study: Path) -> dict:
    """`command`, `data_hash`, `jobs` (keys by name) and `training_commands` of the study in a folder."""
    described = json.loads((study / "study.json").read_text(encoding="utf-8"))
    trainings = {job["name"]: job["settings"] for job in described["jobs"] if job["kind"] == "train"}
    return {
        "command": " ".join(["arche-mdlm", *map(shlex.quote, portable(sys.argv[1:]))]),
        "code": {
            "git": _git_state(),
            "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "scipy")},
        },
        "data_hash": described["data_hash"],
        "jobs": {job["name"]: job["key"] for job in described["jobs"]},
        "training_commands": {name: training_command(own) for name, own in trainings.items()},
    }


def _git_state() -> dict | None:
    """`commit` of the code, and whether no file differs from it (`clean`); None where it is not in a repository."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed inside of somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "clean": git("status", "--porcelain", "--untracked-files=no") == ""}
    except (OSError, subprocess.SubprocessError):
        return None


def how_trained(report: dict, runs: list[dict], more: tuple[str, ...] = ()) -> list[str]:
    """The section on how a study with trainings was made; `more` are lines of its own."""
    versions = sorted({f"{name} {version}" for run in runs for name, version in run["versions"].items()})
    lines = [
        f"- `{report['command']}`",
        f"- trained on: {', '.join(sorted({run['device'] for run in runs}))}; {', '.join(versions)}",
        *([f"- data: hash `{report['data_hash']}`"] if report["data_hash"] else []),
        *more,
        "- "
        + ("every training's command, and " if report["training_commands"] else "")
        + "every job's key (a hash of its settings, code, data and what it needs), is in `report.json` under "
        + ("`training_commands` and `jobs`" if report["training_commands"] else "`jobs`"),
    ]
    return ["## How it was made", "\n".join(lines)]
