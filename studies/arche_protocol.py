"""The paper's protocol (Vicentino 2026, arXiv 2603.22075) with its own metrics, and what each of its confounds does.

`arche-mdlm study arche --preset arche-paper --data roneneldan/TinyStories` trains both arms as the paper did, prints our
row beside the paper's, and a table of 2 x 2 x 2 factors for each arm:

    both arms   windows cut without regard to stories, against a story a row (each its own training)
    both arms   128 tokens, against the training length
    AR          "Once" forced as the first token, against a free start
    MDLM        repetition penalty of the released sampler, against none

A free start is a BOS with rows. Windows know no BOS, so there it is the first token of a random training window, which is
where such a model begins. Everything else is the paper's: temperature 0.8, MDLM in 100 steps of the sampler `arche`.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from arche_mdlm.configuration.presets import Preset, load_preset
from arche_mdlm.studies.controlled import data_hash
from arche_mdlm.studies.estimates import forward_seconds, training_seconds
from arche_mdlm.studies.job_command import SUMMARY, add_running_arguments, run_plan
from arche_mdlm.studies.jobs import Job, Plan
from arche_mdlm.training.arguments import parse_changes
from arche_mdlm.training.command_line import SEED, TEMPERATURE, count

PAPER = Path(__file__).parent / "data" / "arche_paper.json"
LAYOUTS = ("windows", "rows")  # the paper's level of each factor comes first
LENGTHS = ("short", "training")
VARIANTS = {"ar": ("once", "free"), "mdlm": ("penalty", "plain")}
_JOBS = "arche_mdlm.studies.arche_jobs"


@dataclass(frozen=True)
class ArcheSettings:
    """What `arche-mdlm study arche` is asked for; the defaults are the paper's."""

    preset: str = "arche-paper"
    data: str | None = None
    validation_data: str | None = None
    max_steps: int | None = None
    changes: tuple[str, ...] = ()
    num_samples: int = 1000
    short_length: int = 128
    num_diffusion_steps: int = 100
    temperature: float = 0.8
    batch_size: int = 50
    seed: int = 42

    def __post_init__(self):
        least = {"num_samples": 4, "short_length": 6, "num_diffusion_steps": 1, "batch_size": 1, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {value}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be above 0")

    def changed(self, layout: str) -> dict:
        changes = parse_changes(self.changes)
        return changes | {"training.max_steps": self.max_steps, "training.seed": self.seed, "data.layout": layout}

    def arm(self, name: str, layout: str) -> Preset:
        preset = load_preset(f"{self.preset}-{name}", self.changed(layout) | {"data.source": self.data})
        if not self.short_length < preset.data.context_length:
            raise ValueError(
                f"short_length={self.short_length} must be below data.context_length={preset.data.context_length}"
            )
        return preset


def build_plan(settings: ArcheSettings, device: str = "cpu") -> Plan:
    """Four trainings, and eight sets of samples an arm."""
    jobs = [job for arm in VARIANTS for layout in LAYOUTS for job in _training_jobs(settings, arm, layout, device)]
    cells = {job.name: {key: job.settings[key] for key in ("arm", "layout", "length", "variant")}
             for job in jobs if job.kind == "metrics"}  # fmt: skip
    needs = tuple(job.name for job in jobs if job.kind != "sample")
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", {"cells": cells}, needs, 5.0, tolerant=True))
    return Plan(tuple(jobs), data_hash(settings.arm("ar", "windows"), settings.validation_data))


def _training_jobs(settings: ArcheSettings, arm: str, layout: str, device: str) -> Iterator[Job]:
    preset, train = settings.arm(arm, layout), f"train-{arm}-{layout}"
    changes = {key: value for key, value in settings.changed(layout).items() if value is not None}
    own = {"preset": f"{settings.preset}-{arm}", "data": settings.data, "validation_data": settings.validation_data,
           "changes": [f"{key}={json.dumps(value)}" for key, value in changes.items()], "matched": False,
           "resolved": preset.to_dict()}  # fmt: skip
    yield Job(
        train,
        "train",
        "arche_mdlm.studies.controlled_jobs:train",
        own,
        (),
        training_seconds(preset, device),
        fresh=True,
    )
    corpus = {"preset": preset.to_dict(), "validation_data": settings.validation_data, "arm": arm, "layout": layout}
    yield Job(
        f"validation-{arm}-{layout}", "validation", f"{_JOBS}:validation", corpus, (train,),
        forward_seconds(preset, device, 50 * preset.training.batch_size),
    )  # fmt: skip
    for length, variant in itertools.product(LENGTHS, VARIANTS[arm]):
        cell = f"{arm}-{layout}-{length}-{variant}"
        tokens = settings.short_length if length == "short" else preset.data.context_length
        kept = {key: getattr(settings, key) for key in ("num_samples", "temperature", "batch_size", "seed")}
        kept |= {"num_diffusion_steps": settings.num_diffusion_steps} if arm == "mdlm" else {}
        sample = corpus | kept | {"length": length, "tokens": tokens, "variant": variant}
        forwards = settings.num_samples * (settings.num_diffusion_steps if arm == "mdlm" else 2)
        seconds = forward_seconds(preset, device, forwards) * tokens / preset.data.context_length
        yield Job(f"sample-{cell}", "sample", f"{_JOBS}:sample", sample, (train,), seconds)
        measured = {"arm": arm, "layout": layout, "length": length, "variant": variant}
        yield Job(f"metrics-{cell}", "metrics", f"{_JOBS}:metrics", measured, (f"sample-{cell}",), 20.0)


def paper_cell(arm: str) -> str:
    """Name of the job that measures what the paper has measured."""
    return f"metrics-{arm}-windows-short-{VARIANTS[arm][0]}"


# --- the command ------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, ArcheSettings()
    add("--preset", default=default.preset, help="family of presets with the arms mdlm and ar")
    add("--data", help="training stories: Hub id, folder or file (default: the preset's)")
    add("--validation_data", help="file with held-out stories, for rows (windows are split as the paper does)")
    add("--max_steps", type=count(), help="of training (default: the preset's)")
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="any preset key, in both arms")
    add("--num_samples", type=count(4), default=default.num_samples)
    add("--short_length", type=count(6), default=default.short_length, help="tokens of the paper's samples")
    add("--num_diffusion_steps", type=count(), default=default.num_diffusion_steps)
    add("--temperature", type=TEMPERATURE, default=default.temperature)
    add("--batch_size", type=count(), default=default.batch_size, help="of sampling")
    add("--seed", type=SEED, default=default.seed)
    add_running_arguments(parser, "runs/arche")


def run(args: argparse.Namespace, show: Callable[[str], None] = print) -> int:
    """Run what is left, write report.md and report.json and print the tables; 1 if a job failed. Or print the plan."""
    from arche_mdlm.studies.arche_report import FILES, write_report

    values = {name: getattr(args, name) for name in ArcheSettings.__dataclass_fields__}
    settings = ArcheSettings(**values | {"changes": tuple(args.changes)})
    plan = build_plan(settings, "cuda" if torch.cuda.is_available() else "cpu")
    status, path = run_plan(args, plan, asdict(settings), write_report, show, FILES)
    if path is not None:
        show(path.read_text(encoding="utf-8"))
    return status
