"""Running a study's jobs: one after another in this process, or several at a time in separate processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from arche_mdlm.studies.engine import worker as worker_script
from arche_mdlm.studies.engine.jobs import Job, Plan, StudyFolder, describe_time
from arche_mdlm.studies.engine.worker import ANSWER_FILE, LOG_FILE, ORDER_FILE, answer_of
from arche_mdlm.training.files.checkpointing import write_json_atomically

_POLL_SECONDS = 0.05


class StudyRunner:
    """Runs the unfinished jobs of a plan.

    Args:
        root: the study's folder.
        workers: 0: in this process; else as many processes at a time, each with a GPU in turn where there are any, which
            do job after job. A job whose process is killed then fails alone.
        threads: of each process (OMP_NUM_THREADS).
        show: called with each line of progress.
        about: what to keep in `study.json` beside the plan.
    """

    def __init__(self, root: Path, plan: Plan, *, workers: int = 0, threads: int = 1,
                 show: Callable[[str], None] = print, about: dict | None = None):  # fmt: skip
        for name, value, least in (("workers", workers, 0), ("threads", threads, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
        self.folder, self.plan = StudyFolder(root, plan), plan
        self.workers, self.threads, self.show, self.about = workers, threads, show, about
        self._workers: dict[int, subprocess.Popen] = {}  # by slot
        self.failed: dict[str, str] = {}  # in this session: why, or what a skipped job needed

    def dry_run(self) -> None:
        """Print all jobs, which of them are done, and how long the others may take."""
        left = {job.name for job in self.folder.left()}
        paces = self.folder.paces()
        for job in self.plan:
            state = describe_time(job.seconds * paces.get(job.kind, 1.0)) if job.name in left else "done"
            failure = self.folder.failure(job.name) if job.name in left else None
            self.show(f"{state:>8}  {job.kind:11} {job.name}" + (f"  (failed: {failure})" if failure else ""))
        self.show(self._summary())

    def _summary(self) -> str:
        left = self.folder.left()
        line = f"{len(self.plan)} jobs, {len(self.plan) - len(left)} of them done, {len(left)} to do"
        if left:
            line += f", about {describe_time(self.folder.estimate(left, self.workers))}"
        return line

    def run(self) -> dict[str, str]:
        """Run the remaining jobs; returns name and reason of each job that failed or was skipped.

        Raises KeyboardInterrupt on Ctrl-C, behind which all finished jobs are kept, and ValueError if another process
        is at work in the folder.
        """
        self.folder.create(self.about)
        self.failed = {}
        with _locked(self.folder.root):
            self.show(self._summary())
            if self.workers == 0:
                self._run_here()
            else:
                self._run_processes()
        return self.failed

    # ------------------------------------------------------------------ which job is next

    def _blocked(self, job: Job) -> list[str]:
        """The failed jobs that it needs."""
        return [] if job.tolerant else [need for need in job.needs if need in self.failed]

    def _skip(self, job: Job, failed: list[str]) -> None:
        self.failed[job.name] = f"skipped, because {', '.join(failed)} failed"
        self.show(f"skipped: {job.name} ({', '.join(failed)} failed)")

    def _note_end(self, job: Job, seconds: float, answer: dict) -> None:
        """Record a result or a failure."""
        if "result" in answer:
            self.folder.finish(job.name, answer["result"], seconds)
            left = [job for job in self.folder.left() if job.name not in self.failed]
            ahead = (
                f", {len(left)} left, about {describe_time(self.folder.estimate(left, self.workers))}" if left else ""
            )
            self.show(f"done: {job.name} in {describe_time(seconds)}{ahead}")
        else:
            self.folder.fail(job.name, answer["message"], seconds, answer.get("details", ""))
            self.failed[job.name] = answer["message"]
            self.show(f"FAILED: {job.name}: {answer['message']}")

    # ------------------------------------------------------------------ in this process

    def _run_here(self) -> None:
        for job in self.plan:
            if self.folder.is_done(job.name):
                continue
            if blocked := self._blocked(job):
                self._skip(job, blocked)
                continue
            work, start = self.folder.begin(job.name), time.perf_counter()
            answer = answer_of(job.function, dict(job.settings), self.folder.inputs(job.name), work)
            self._note_end(job, time.perf_counter() - start, answer)

    # ------------------------------------------------------------------ in several

    def _run_processes(self) -> None:
        running: dict[int, tuple[Job, float]] = {}  # by slot, which decides the GPU
        waiting = list(self.plan)
        try:
            while waiting or running:
                for slot, (job, start) in list(running.items()):
                    if (answer := self._answer(slot, job)) is not None:
                        del running[slot]
                        self._note_end(job, time.perf_counter() - start, answer)
                waiting = self._start(waiting, running)
                time.sleep(_POLL_SECONDS)
        finally:
            self._stop(running)

    def _start(self, waiting: list[Job], running: dict) -> list[Job]:
        """Start all jobs that can start; returns those that wait."""
        unsettled = {job.name for job in waiting} | {job.name for job, _ in running.values()}
        kept = []
        for job in waiting:
            if not unsettled.isdisjoint(job.needs):
                kept.append(job)
            elif blocked := self._blocked(job):
                self._skip(job, blocked)
                unsettled.discard(job.name)
            elif self.folder.is_done(job.name):
                unsettled.discard(job.name)
            elif len(running) == self.workers:
                kept.append(job)
            else:
                slot = next(slot for slot in range(self.workers) if slot not in running)
                self._give(job, slot)
                running[slot] = (job, time.perf_counter())
        return kept

    def _give(self, job: Job, slot: int) -> None:
        """Send a job to the slot's worker; start a new worker if none is free for more jobs."""
        work = self.folder.begin(job.name)
        (work / ANSWER_FILE).unlink(missing_ok=True)
        inputs = {name: str(path.resolve()) for name, path in self.folder.inputs(job.name).items()}
        order = {"function": job.function, "settings": job.settings, "inputs": inputs, "fresh": job.fresh}
        write_json_atomically(work / ORDER_FILE, order)
        line = f"{work.resolve()}\n".encode()
        if job.fresh:
            self._dismiss(slot)
        worker = self._workers.get(slot)
        if worker is not None:
            with suppress(BrokenPipeError):  # it has died since its last job
                _send(worker, line)
                return
            self._dismiss(slot)
        self._workers[slot] = worker = self._launch(slot)
        _send(worker, line)

    def _launch(self, slot: int) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if gpus := _gpus():
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        # A session of its own: Ctrl-C reaches it through this process alone, and once.
        return subprocess.Popen(
            [sys.executable, worker_script.__file__], stdin=subprocess.PIPE, env=environment, start_new_session=True
        )

    def _answer(self, slot: int, job: Job) -> dict | None:
        """A job's result, or why its process ended without one; None while it runs."""
        worker, work = self._workers[slot], self.folder.work(job.name)
        ended = worker.poll() is not None  # asked first: the answer comes before the end
        path = work / ANSWER_FILE
        if path.is_file():
            answer = json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
            if job.fresh:
                self._dismiss(slot)
            return answer
        if not ended:
            return None
        self._dismiss(slot)
        how = f"signal {-worker.returncode}" if worker.returncode < 0 else f"exit status {worker.returncode}"
        log = work / LOG_FILE
        return {"message": f"its process ended with {how}; its output is in {log}", "details": _tail(log)}

    def _dismiss(self, slot: int) -> None:
        """Wait for the end of a slot's idle worker."""
        worker = self._workers.pop(slot, None)
        if worker is not None:
            with suppress(BrokenPipeError):
                _pipe_of(worker).close()
            worker.wait()

    def _stop(self, running: dict) -> None:
        """Ask every worker with a job to stop, once, and wait: a training saves itself first."""
        for slot in running:
            if self._workers[slot].poll() is None:
                self._workers[slot].send_signal(signal.SIGINT)
        for slot, (job, start) in running.items():
            self._workers[slot].wait()
            written = (self.folder.work(job.name) / ANSWER_FILE).is_file()
            if written and (answer := self._answer(slot, job)) is not None:  # it was just about done
                self._note_end(job, time.perf_counter() - start, answer)
        for slot in list(self._workers):
            self._dismiss(slot)


def _pipe_of(worker: subprocess.Popen) -> IO[bytes]:
    assert worker.stdin is not None, "a worker is started with a pipe"
    return worker.stdin


def _send(worker: subprocess.Popen, line: bytes) -> None:
    _pipe_of(worker).write(line)
    _pipe_of(worker).flush()


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(index) for index in range(torch.cuda.device_count())]


def _tail(path: Path, lines: int = 20) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other studies out of the folder; the lock goes with this process, however it ends."""
    with (root / ".lock").open("a") as file:  # never emptied: it might be somebody's
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process uses {root}: wait for it, or choose another folder") from error
        yield
