"""The report of a run of the benchmarks: results as ratios, the machine, the versions, the commit."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
import transformers

import arche_mdlm
from arche_mdlm.training.files.own_files import OutputFolder
from arche_mdlm.training.loop.provenance import cpu_name
from benchmarks.timing import compare

REPOSITORY = Path(__file__).parents[1]


class Report:
    """Collects results of one run."""

    def __init__(self, command: str):
        self.command = command
        self.results: list[dict] = []
        self.throughput: dict[str, dict] = {}

    def add(self, name: str, ours: list[float], reference: list[float], unit: str, note: str) -> None:
        """Ours over the reference, both units a second (of memory: both in peak bytes, so that less is better)."""
        ratio = compare(ours, reference)
        self.results.append(
            {
                "name": name,
                **ratio._asdict(),
                "unit": unit,
                "ours": median(ours),
                "reference": median(reference),
                "rounds": len(ours),
                "what": note,
                "command": self.command,
            }
        )

    def record(self, name: str, per_second: list[float]) -> None:
        self.throughput[name] = {
            "tokens_per_second": median(per_second), "low": min(per_second), "high": max(per_second)
        }  # fmt: skip


def note(message: str) -> None:
    """What is being measured now."""
    print(message, "...", file=sys.stderr, flush=True)


def describe_machine(device: torch.device) -> dict:
    return {
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def describe_versions() -> dict:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "arche_mdlm": arche_mdlm.__version__,
    }


def current_commit() -> str | None:
    """The checkout's commit, `+changes` where files differ from it; None outside a repository."""
    try:
        commands = (["rev-parse", "HEAD"], ["status", "--porcelain"])
        head, changes = (
            subprocess.run(["git", *c], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes else "")


def destination(output: Path, *others: str) -> OutputFolder:
    """Where results go, checked: ValueError for an output that cannot be written, or is somebody else's file."""
    folder = OutputFolder(output.parent, [output.name, *others])
    folder.check()
    return folder


def write(output: Path, report: Report, machine: dict, settings: dict) -> None:
    """Print the table and write everything into `output` as JSON."""
    document = {
        "machine": machine,
        "versions": describe_versions(),
        "commit": current_commit(),
        "settings": settings,
        "throughput": report.throughput,
        "results": report.results,
    }
    destination(output).write_json(output.name, json.loads(json.dumps(document)))
    _show(document)
    print(f"\nwritten to {output}")


def _show(document: dict) -> None:
    for name, entry in document["throughput"].items():
        print(f"{name:12} {entry['tokens_per_second']:12,.0f} tokens/s ({entry['low']:,.0f} to {entry['high']:,.0f})")
    print()
    print(f"{'':38}{'ours/reference':>15}{'low':>8}{'high':>8}{'ours':>12}{'reference':>12}")
    for result in document["results"]:
        ours, reference = result["ours"], result["reference"]
        print(
            f"{result['name']:38}{result['ratio']:15.2f}{result['low']:8.2f}{result['high']:8.2f}"
            f"{ours:12,.5g}{reference:12,.5g} {result['unit']}"
        )
