"""A study as a list of jobs: each has settings and the jobs it needs, a key made of both, and a folder for what it finds.

In the folder of a study, `study.json` describes the plan, `jobs/NAME-KEY/` holds a finished job (`result.json` and its files),
`jobs/NAME-KEY.failed.json` why one failed, and `work/NAME-KEY/` what an unfinished one has so far, such as
a training's checkpoints. A job's key changes with its settings, its code, the data and the keys it needs, so that a
change reruns only what depends on it. Its code is all of our modules that it can reach (`studies.engine.keys`).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from arche_mdlm.studies.engine.keys import code_hash
from arche_mdlm.training.files.checkpointing import write_json_atomically
from arche_mdlm.training.files.own_files import carry_over, check_writable, record_all

FORMAT_VERSION = 1  # of a study's folder
RESULT_FILE = "result.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Job:
    """One piece of work, which is done whole or not at all.

    Args:
        name: unique in its plan, fit for a file name.
        kind: what sort of work; measured times of a kind correct the estimates of its others.
        function: "package.module:function", called as `function(settings, inputs, folder)`, with the folders of the
            jobs it needs by name, and a working folder that outlives interruptions; returns a dict that fits JSON.
        settings: a dict that fits JSON: with what it needs, all that the result may depend on.
        needs: names of other jobs.
        seconds: an estimate.
        version: raise it when equal settings and code give another result, such as after a change of a library.
        fresh: the job has a process to itself, because it leaves process-wide state behind.
        tolerant: run it even if some of what it needs has failed; `inputs` then holds the others. Its key does not tell
            these cases apart, its record does.
    """

    name: str
    kind: str
    function: str
    settings: dict = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    seconds: float = 1.0
    version: int = 1
    fresh: bool = False
    tolerant: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r} of a job must consist of letters, digits, dots, dashes, underscores")
        if not re.fullmatch(r"[\w.]+:\w+", self.function):
            raise ValueError(f"function={self.function!r} of job {self.name!r} must be 'package.module:function'")
        try:
            json.dumps(self.settings)
        except TypeError as error:
            raise ValueError(f"settings of job {self.name!r} do not fit JSON: {error}") from error


@dataclass(frozen=True)
class Plan:
    """Jobs in an order in which each comes behind what it needs (else the order given), with their keys.

    Args:
        data_hash: of the data that all jobs read.

    Raises ValueError for two jobs of one name, a need that is not a job, jobs that need each other in a circle, or a function
    whose module cannot be found.
    """

    jobs: tuple[Job, ...]
    data_hash: str = ""
    by_name: dict[str, Job] = field(init=False, repr=False, compare=False)
    keys: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {job.name: job for job in self.jobs}
        if len(by_name) < len(self.jobs):
            names = [job.name for job in self.jobs]
            raise ValueError(f"two jobs have the name {next(n for n in names if names.count(n) > 1)!r}")
        for job in self.jobs:
            if missing := sorted(set(job.needs) - set(by_name)):
                raise ValueError(f"job {job.name!r} needs {', '.join(missing)}: no such job in the plan")
        try:
            order = tuple(TopologicalSorter({job.name: job.needs for job in self.jobs}).static_order())
        except CycleError as error:
            raise ValueError(f"jobs depend on each other in a cycle: {' -> '.join(error.args[1])}") from error
        object.__setattr__(self, "jobs", tuple(by_name[name] for name in order))
        object.__setattr__(self, "by_name", by_name)
        modules = {job.function.split(":")[0] for job in self.jobs}
        code = {module: code_hash(module) for module in modules}
        keys: dict[str, str] = {}
        for job in self.jobs:
            own = [job.kind, job.function, job.settings, job.version, self.data_hash, [keys[n] for n in job.needs],
                   code[job.function.split(":")[0]]]  # fmt: skip
            keys[job.name] = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]
        object.__setattr__(self, "keys", keys)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


def check_format(root: Path) -> None:
    """ValueError for a folder written in another version of the format, or with an invalid `study.json`."""
    path = Path(root) / "study.json"
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the plan of a study ({error!r}): choose another folder, or delete it"
        ) from error
    if found != FORMAT_VERSION:
        raise ValueError(
            f"{root} holds a study of format {found!r}, this version writes format {FORMAT_VERSION}: choose another folder"
        )


class StudyFolder:
    """The state of a plan on the disk. ValueError for a folder that another version of the format has written."""

    def __init__(self, root: Path, plan: Plan):
        self.root, self.plan = Path(root), plan
        self._seconds: dict[str, float] = {}  # of finished jobs, so that an estimate does not read all results again
        check_format(self.root)

    def create(self, about: dict | None = None) -> None:
        """Make the folder, and write `study.json` with the plan; ValueError where that is not possible."""
        for folder in (self.root, self.root / "jobs", self.root / "work"):
            check_writable(folder)
        for folder in (self.root / "jobs", self.root / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        jobs = [{**vars(job), "key": self.plan.keys[job.name]} for job in self.plan]
        described = {"format": FORMAT_VERSION, "about": about or {}, "data_hash": self.plan.data_hash, "jobs": jobs}
        write_json_atomically(self.root / "study.json", described)

    def _label(self, name: str) -> str:
        return f"{name}-{self.plan.keys[name]}"

    def path(self, name: str) -> Path:
        """Folder of a finished job."""
        return self.root / "jobs" / self._label(name)

    def work(self, name: str) -> Path:
        """Folder of an unfinished job."""
        return self.root / "work" / self._label(name)

    def inputs(self, name: str) -> dict[str, Path]:
        """Folders of the jobs that a job needs, without failed ones."""
        return {need: self.path(need) for need in self.plan.by_name[name].needs if self.is_done(need)}

    def is_done(self, name: str) -> bool:
        """Whether there is a result; a tolerant job's counts only if it used all results available now."""
        if not (self.path(name) / RESULT_FILE).is_file():
            return False
        job = self.plan.by_name[name]
        return not job.tolerant or set(self.record(name)["had"]) == set(self.inputs(name))

    def record(self, name: str) -> dict:
        """The record of a finished job: its `result`, `seconds`, `had` and itself."""
        return json.loads((self.path(name) / RESULT_FILE).read_text(encoding="utf-8"))

    def result(self, name: str) -> dict:
        return self.record(name)["result"]

    def failure(self, name: str) -> str | None:
        """Why a job failed when it was last tried."""
        path = self._failure_path(name)
        return json.loads(path.read_text(encoding="utf-8"))["message"] if path.is_file() else None

    def _failure_path(self, name: str) -> Path:
        return self.root / "jobs" / f"{self._label(name)}.failed.json"

    def begin(self, name: str) -> Path:
        """Forget an earlier failure; the working folder."""
        self._failure_path(name).unlink(missing_ok=True)
        self.work(name).mkdir(parents=True, exist_ok=True)
        return self.work(name)

    def finish(self, name: str, result: dict, seconds: float) -> None:
        """Put a job's result beside its files and all of it in its place, with one rename."""
        job, work = self.plan.by_name[name], self.work(name)
        record = {"job": vars(job), "had": sorted(self.inputs(name)), "seconds": seconds, "result": result}
        write_json_atomically(work / RESULT_FILE, record)
        if self.path(name).exists():  # of a tolerant job that was done with less
            record_all(work)
            carry_over(self.path(name), work)
            shutil.rmtree(self.path(name))
        os.replace(work, self.path(name))
        self._seconds[name] = seconds

    def fail(self, name: str, message: str, seconds: float, details: str = "") -> None:
        value = {"job": vars(self.plan.by_name[name]), "message": message, "seconds": seconds, "details": details}
        write_json_atomically(self._failure_path(name), value)

    def left(self) -> list[Job]:
        return [job for job in self.plan if not self.is_done(job.name)]

    def paces(self) -> dict[str, float]:
        """Seconds measured over seconds estimated, of each kind of which something is done."""
        measured: dict[str, list[float]] = {}
        for job in self.plan:
            if self.is_done(job.name):
                pair = measured.setdefault(job.kind, [0.0, 0.0])
                if job.name not in self._seconds:
                    self._seconds[job.name] = self.record(job.name)["seconds"]
                pair[0] += self._seconds[job.name]
                pair[1] += job.seconds
        return {kind: seconds / max(estimated, 1e-9) for kind, (seconds, estimated) in measured.items()}

    def estimate(self, jobs: Iterable[Job], workers: int = 1) -> float:
        """Seconds that `jobs` will take, from the times of similar jobs; at least that of the longest chain of dependencies."""
        paces, total = self.paces(), 0.0
        ends: dict[str, float] = {}
        for job in jobs:  # in the plan's order
            seconds = job.seconds * paces.get(job.kind, 1.0)
            total += seconds
            ends[job.name] = seconds + max((ends.get(need, 0.0) for need in job.needs), default=0.0)
        return max([total / max(1, workers), *ends.values()])


def describe_time(seconds: float) -> str:
    """Like "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
