"""Speed against quality: every sampler at several numbers of steps, beside AR with its KV cache, in one run."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

import arche_mdlm
from arche_mdlm.metrics.judge import Judge, identify_judge, load_judge, probe_judge
from arche_mdlm.studies.engine.keys import code_hash
from arche_mdlm.studies.engine.references import draw, fingerprint, fitting_stories
from arche_mdlm.studies.speed_quality import cells
from arche_mdlm.training.checkpointing import write_json_atomically
from arche_mdlm.training.loading import is_diffusion, load_arm
from arche_mdlm.training.provenance import cpu_name, portable

# More than one row of a sampler: label and settings. A sampler that is not here appears once, with its defaults.
VARIANTS: dict[str, dict[str, dict]] = {
    "threshold": {"threshold 0.9": {}, "threshold factor 1": {"threshold_factor": 1.0}},
    "remdm": {f"remdm {name}": {"remasking": name} for name in ("cap", "rescale", "conf", "loop")},
}
AR = "AR, KV cache"


@dataclass(frozen=True)
class Settings:
    """What `arche-mdlm study speed-quality` is asked for."""

    mdlm: str
    ar: str
    output: Path
    samplers: tuple[str, ...] = ()  # empty: all there are
    steps: tuple[int, ...] = (8, 16, 32, 64, 128)
    batch_sizes: tuple[int, ...] = (1, 32)
    num_samples: int = 64  # stories a (sampler, steps), for quality
    num_timed: int = 4  # stories timed at least, a cell
    repeats: int = 3  # calls timed at least, a cell, unless one takes long
    judge: str = "smollm2"  # or "none", a folder, a repository
    references: str | None = None
    seed: int = 0
    temperature: float = 1.0
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self):
        for name in ("steps", "batch_sizes"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} must be different numbers of at least 1")
        for name, least in (("num_samples", 2), ("num_timed", 1), ("repeats", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if unknown := sorted(set(self.samplers) - set(arche_mdlm.available_samplers())):
            raise ValueError(f"samplers={unknown} are not among {', '.join(arche_mdlm.available_samplers())}")


@dataclass(frozen=True)
class Cell:
    """One measurement: `kind` is "texts", "judged" or "speed"."""

    kind: str
    label: str
    steps: int | None  # None: AR
    options: dict  # of `generate`
    batch_size: int | None = None  # of a speed cell

    def settings(self) -> dict:
        return dict(vars(self))


class Study:
    """The plan and its finished cells: a JSON file each under `output/cells`, or all in a finished `report.json`."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.mdlm, self.tokenizer = load_arm(settings.mdlm)
        self.ar, other = load_arm(settings.ar)
        if not is_diffusion(self.mdlm) or is_diffusion(self.ar):
            raise ValueError(
                "--mdlm needs a masked diffusion checkpoint and --ar an autoregressive one; are they swapped?"
            )
        if self.tokenizer.get_vocab() != other.get_vocab():
            raise ValueError("the two checkpoints have different tokenizers; their figures could not be compared")
        self.weights = {"MDLM": weights_hash(self.mdlm), "AR": weights_hash(self.ar)}
        self.code = code_hash("arche_mdlm.studies.speed_quality.cells")
        self.judge_id = None if settings.judge == "none" else identify_judge(settings.judge)
        if self.judge_id is not None:
            probe_judge(settings.judge)
        self.references = self._references()
        self.folder = settings.output / "cells"
        self.done = self._finished()

    def _references(self) -> list[str] | None:
        if self.settings.references is None:
            return None
        context = self.mdlm.generation_config.max_length or self.mdlm.config.max_position_embeddings
        texts = fitting_stories(self.settings.references, self.tokenizer, context)
        return draw(texts, self.settings.num_samples, self.settings.seed)

    @cached_property
    def judge(self) -> Judge | None:
        """Loaded when the first text is to be judged."""
        return None if self.judge_id is None else load_judge(self.settings.judge, device=self.settings.device)

    def rows(self) -> Iterator[tuple[str, int | None, dict]]:
        """Label, steps and `generate` options of every row of the table, AR first."""
        common = {"do_sample": True, "temperature": self.settings.temperature, "top_k": 0, "top_p": 1.0}
        yield AR, None, common | {"use_cache": True}
        for name in self.settings.samplers or arche_mdlm.available_samplers():
            for label, options in VARIANTS.get(name, {name: {}}).items():
                for steps in self.settings.steps:
                    yield label, steps, common | {"sampler": name, "num_diffusion_steps": steps, **options}

    def plan(self) -> list[Cell]:
        """All that is timed first, in one stretch, so that the judge's memory does not weigh on it.

        A row's texts are written, and timed, in batches of the largest size: what a text is does not depend on its batch.
        """
        rows = list(self.rows())
        smaller = [size for size in self.settings.batch_sizes if size != self.largest]
        plan = [Cell("speed", *row, batch_size=size) for row in rows for size in smaller]
        plan += [Cell("texts", *row) for row in rows]
        return plan + [Cell("judged", *row) for row in rows]

    @property
    def largest(self) -> int:
        return max(self.settings.batch_sizes)

    def key(self, cell: Cell) -> str:
        """Of the cell's settings, the weights and the code that generates: another of them is another cell."""
        chosen = self.settings
        what = {"cell": cell.settings(), "weights": self.weights["AR" if cell.steps is None else "MDLM"],
                "code": self.code, "seed": chosen.seed, "device": chosen.device}  # fmt: skip
        if cell.kind != "judged":
            what |= {"threads": chosen.threads, "num_timed": chosen.num_timed, "repeats": chosen.repeats}
        if cell.kind != "speed":
            what |= {"num_samples": chosen.num_samples, "batch_size": self.largest}
        if cell.kind == "judged":
            what["judge"] = self.judge_id
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]

    def _finished(self) -> dict[str, dict]:
        report, done = self.settings.output / "report.json", {}
        with suppress(OSError, ValueError, KeyError, TypeError):  # none, or somebody else's
            done = dict(json.loads(report.read_text(encoding="utf-8"))["cells"])
        for path in map(self.path, self.plan()):
            if path.is_file():
                done[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        return done

    def path(self, cell: Cell) -> Path:
        """Where a finished cell is kept until the report has it."""
        return self.folder / f"{self.key(cell)}.json"

    def remove_cells(self) -> None:
        """Those of the plan; nothing else in their folder."""
        for cell in self.plan():
            self.path(cell).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def measure(self, cell: Cell) -> dict:
        """The cell's figures, without storing them."""
        arm = self.ar if cell.steps is None else self.mdlm
        if cell.kind == "judged":
            texts = self.done[self.key(Cell("texts", cell.label, cell.steps, cell.options))]["texts"]
            return cells.judge_texts(texts, self.tokenizer, self.judge, self.settings.seed)
        common = {"seed": self.settings.seed, "options": cell.options}
        if cell.kind == "texts":
            return cells.write_texts(
                arm, self.tokenizer, self.settings.num_samples, self.settings.repeats, batch_size=self.largest, **common
            )
        calls = max(self.settings.repeats, -(-self.settings.num_timed // cell.batch_size))
        return cells.time_calls(arm, self.tokenizer, calls, batch_size=cell.batch_size, **common)

    def run(self) -> None:
        """Measure and store what is not there yet; Ctrl-C loses the cell being measured only."""
        torch.set_num_threads(self.settings.threads)
        self.mdlm.to(self.settings.device).eval()
        self.ar.to(self.settings.device).eval()
        self.folder.mkdir(parents=True, exist_ok=True)
        left = [cell for cell in self.plan() if self.key(cell) not in self.done]
        with tqdm(total=sum(map(self._weight, left)), desc="speed-quality", unit="fwd", unit_scale=True) as bar:
            for cell in left:
                bar.set_postfix_str(f"{cell.kind} {cell.label} {cell.steps or ''}")
                found = {"cell": cell.settings(), **self.measure(cell)}
                write_json_atomically(self.path(cell), found)
                self.done[self.key(cell)] = found
                bar.update(self._weight(cell))

    def _weight(self, cell: Cell) -> int:
        """About how many rows go through a model of the pair's size, for the estimate of the time left."""
        if cell.kind == "judged":
            return self.settings.num_samples * (1 if self.judge_id is None else 60)
        stories = self.settings.num_samples if cell.kind == "texts" else self.settings.num_timed + cell.batch_size
        return stories * (cell.steps or 16)

    def report(self) -> dict:
        """Settings, provenance, every row's figures, and the cells themselves."""
        plan = self.plan()
        judged = None if self.judge_id is None else self.judge.describe()
        found = {}
        if self.references is not None:
            found = cells.judge_texts(self.references, self.tokenizer, self.judge, self.settings.seed)
            found |= {"source": Path(self.settings.references).name, "sha256": fingerprint(self.references)}
        return {
            "command": _command(sys.argv[1:]),
            "settings": portable({k: str(v) if isinstance(v, Path) else v for k, v in vars(self.settings).items()}),
            "weights_sha256": self.weights,
            "code_sha256": self.code,
            "judge": judged,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "machine": {"device": _device_name(self.settings.device), "threads": self.settings.threads},
            "rows": [self._row(label, steps, options) for label, steps, options in self.rows()],
            "reference": found or None,
            "cells": {self.key(cell): self.done[self.key(cell)] for cell in plan},
        }

    def _row(self, label: str, steps: int | None, options: dict) -> dict:
        texts, judged = (self.done[self.key(Cell(kind, label, steps, options))] for kind in ("texts", "judged"))
        kept = {key: value for key, value in texts.items() if key not in ("texts", "cell", "stories_per_second")}
        kept |= {key: value for key, value in judged.items() if key != "cell"}
        timed = {size: Cell("speed", label, steps, options, size) for size in self.settings.batch_sizes}
        timed[self.largest] = Cell("texts", label, steps, options)
        speeds = {str(size): self.done[self.key(cell)]["stories_per_second"] for size, cell in timed.items()}
        return {"label": label, "steps": steps, **kept, "stories_per_second": speeds}


def _command(argv: list[str]) -> str:
    """As it was given."""
    return " ".join(["arche-mdlm", *portable(argv)])


def weights_hash(model) -> str:
    """sha256 of a model's weights by name and value, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
