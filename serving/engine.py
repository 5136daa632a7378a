"""The queue of texts, and the thread that writes them in batches."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from arche_mdlm.metrics.batch_sizes import BatchSize
from arche_mdlm.serving.errors import ApiError, bad_request, internal_error, unavailable
from arche_mdlm.serving.measures import Measures
from arche_mdlm.serving.row import Row
from arche_mdlm.serving.writing import Writer

logger = logging.getLogger("arche_mdlm.serving")


class Engine:
    """Rows wait here; one thread writes those that have the same options together, the oldest first.

    Args:
        writer: of the model.
        batch: rows written together at most.
        queue_length: rows that may wait.
        measures: for monitoring.
    """

    def __init__(self, writer: Writer, batch: BatchSize, queue_length: int, measures: Measures) -> None:
        self.writer, self.batch, self.queue_length, self.measures = writer, batch, queue_length, measures
        self.waiting: deque[Row] = deque()
        self.running: Sequence[Row] = ()
        self.closing = False
        self.seconds = 1.0  # of a batch, a moving mean
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="arche-mdlm-engine", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Let rows wait, all or none; ApiError 503 once the server is being shut down, 429 where the queue is full."""
        with self._changed:
            if self.closing:
                raise unavailable("the server is shutting down")
            if len(self.waiting) + len(rows) > self.queue_length:
                batches = math.ceil((len(self.waiting) + len(rows)) / self.batch.size)
                raise ApiError(
                    429, f"{len(self.waiting)} texts are waiting, and at most {self.queue_length} may: try again later",
                    kind="rate_limit_error", code="queue_full", retry_after=max(1, round(batches * self.seconds)),
                )  # fmt: skip
            self.waiting.extend(rows)
            self._changed.notify()

    def drop(self, rows: Iterable[Row]) -> None:
        """Give up rows that nobody waits for any more: they leave the queue, or stop being written."""
        with self._changed:
            for row in rows:
                row.cancelled.set()
            self.waiting = deque(row for row in self.waiting if not row.is_over)

    def drain(self) -> None:
        """Take no new rows; those that are there are still written."""
        with self._changed:
            self.closing = True
            self._changed.notify()

    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing is written."""
        with self._changed:
            return not self.waiting and not self.running

    def stop(self) -> None:
        """Tell all rows that there will be no more text, and end the thread after its current step."""
        self.drain()
        with self._changed:
            rows = [*self.waiting, *self.running]
            self.waiting.clear()
        for row in rows:
            row.fail(unavailable("the server was shut down before the text was finished"))
        self._thread.join(timeout=30)

    def is_alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while rows := self._next():
            start = time.monotonic()
            self.measures.batch_rows.observe(len(rows))
            try:
                for _ in self.batch.run(rows, self._write):
                    pass
            except Exception:
                logger.exception("a batch of %d texts failed", len(rows))
                for row in rows:
                    row.fail(internal_error())
            with self._changed:
                self.running = ()
            self.seconds += 0.2 * (time.monotonic() - start - self.seconds)

    def _write(self, rows: Sequence[Row]) -> None:
        """Write those of the rows that are still wanted; all are over then."""
        left = [row for row in rows if not row.is_over]
        try:
            if left:
                self.writer.write(left)
        except ValueError as error:  # of `generate`, for what the checks before have not seen
            for row in left:
                row.fail(bad_request(" ".join(str(error).split())))
        if not all(row.is_over for row in left):
            raise RuntimeError("a text was not finished")

    def _next(self) -> list[Row]:
        """The rows of the next batch; empty once the server is being shut down and nothing waits."""
        with self._changed:
            while not self.waiting and not self.closing:
                self._changed.wait()
            if not self.waiting:
                return []
            options = self.waiting[0].options
            rows: list[Row] = []
            rest: deque[Row] = deque()
            for row in self.waiting:
                fits = row.options == options and len(rows) < self.batch.size
                (rows if fits else rest).append(row)
            self.waiting, self.running = rest, rows
            return rows
