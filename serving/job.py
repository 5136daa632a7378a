"""A request that waits for its rows: until they are over, its client leaves, or its time is up."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from starlette.requests import Request as HttpRequest

from arche_mdlm.serving.engine import Engine
from arche_mdlm.serving.errors import ApiError
from arche_mdlm.serving.row import Row


class ClientLeft(Exception):
    """The client has closed the connection."""


class Job:
    """The rows of one request, in the queue from here on; ApiError where the queue takes none.

    Args:
        timeout: seconds, of waiting and writing.
    """

    def __init__(self, engine: Engine, rows: Sequence[Row], timeout: float) -> None:
        self.engine, self.rows, self.timeout = engine, rows, timeout
        self.deadline = time.monotonic() + timeout
        self.changed = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        for row in rows:
            row.listener = self._tell
        engine.submit(rows)

    async def changes(self, request: HttpRequest) -> AsyncIterator[None]:
        """Yields after changes of the rows, the last time when all are over. ClientLeft, or ApiError 504 once time is up.

        However it ends, rows that are not over are given up.
        """
        gone = asyncio.create_task(_leaving(request))
        try:
            while True:
                await self._wait(gone)
                over = all(row.finish_reason is not None or row.error is not None for row in self.rows)
                yield
                if over:
                    return
        finally:
            gone.cancel()
            self.engine.drop(row for row in self.rows if not row.is_over)

    async def _wait(self, gone: asyncio.Task) -> None:
        change = asyncio.create_task(self.changed.wait())
        try:
            left = max(0.0, self.deadline - time.monotonic())
            await asyncio.wait({gone, change}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        if gone.done():
            raise ClientLeft
        if not self.changed.is_set():
            raise ApiError(
                504, f"the text was not finished in {self.timeout:g} seconds", kind="timeout_error", code="timeout"
            )
        self.changed.clear()

    def _tell(self) -> None:
        """Called in the engine's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self.changed.set)


async def _leaving(request: HttpRequest) -> None:
    """Returns when the client closes the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
