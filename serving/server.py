"""Running the application: the engine's thread, uvicorn, and what a signal does."""

import asyncio
import logging
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.server import Server

from arche_mdlm.metrics.batch_sizes import BatchSize
from arche_mdlm.serving.app import Service, build_app
from arche_mdlm.serving.engine import Engine
from arche_mdlm.serving.measures import Measures
from arche_mdlm.serving.served_model import Limits, ServedModel
from arche_mdlm.serving.writing import AutoregressiveWriter, DiffusionWriter

logger = logging.getLogger("arche_mdlm.serving")
_GRACE = 5  # seconds beyond the time to end, in which clients are told


@dataclass(frozen=True)
class ServerSettings:
    """See the options of `arche-mdlm serve`."""

    name: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    limits: Limits = Limits()
    max_body_bytes: int = 2**20
    queue_length: int = 256
    batch_size: int | str = "auto"
    request_timeout: float = 300.0
    shutdown_timeout: float = 30.0


def make_service(model: Any, tokenizer: Any, settings: ServerSettings) -> Service:
    """The parts of a server; its engine has not begun to write."""
    served = ServedModel(model, tokenizer, settings.name, settings.limits)
    writer = (DiffusionWriter if served.arm.denoises else AutoregressiveWriter)(model, tokenizer)
    batch = BatchSize.of(settings.batch_size, model, served.context)
    engine = Engine(writer, batch, settings.queue_length, Measures())
    return Service(served, engine, settings.api_key, settings.max_body_bytes, settings.request_timeout)


class GracefulServer(Server):
    """uvicorn's server, which at a signal first lets requests end, or tells them.

    Args:
        shutdown_timeout: seconds that requests have to end.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, shutdown_timeout: float) -> None:
        super().__init__(config)
        self.engine, self.shutdown_timeout = engine, shutdown_timeout

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new work; a second signal ends at once."""
        if not self.engine.closing:
            logger.info("shutting down: requests have %g seconds to end", self.shutdown_timeout)
        self.engine.drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        """Close the listening sockets, wait for the requests, and tell those that are left."""
        watch = asyncio.create_task(self.tell_late_ones())
        try:
            await super().shutdown(sockets)
        finally:
            watch.cancel()

    async def tell_late_ones(self) -> None:
        """Stop the requests that are still running when the time for them is over."""
        await asyncio.sleep(self.shutdown_timeout)
        await asyncio.to_thread(self.engine.stop)


def serve(model: Any, tokenizer: Any, settings: ServerSettings) -> int:
    """Serve a model until SIGINT or SIGTERM; the exit status, 1 where the address cannot be used."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for library in ("httpx", "uvicorn.access"):
        logging.getLogger(library).setLevel(logging.WARNING)
    service = make_service(model, tokenizer, settings)
    config = uvicorn.Config(
        build_app(service), host=settings.host, port=settings.port, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_timeout + _GRACE) + 1,
    )  # fmt: skip
    logger.info("serving %s, %d texts at once at most", settings.name, service.engine.batch.size)
    service.engine.start()
    server = GracefulServer(config, service.engine, settings.shutdown_timeout)
    try:
        server.run()
    except KeyboardInterrupt:
        pass  # uvicorn raises the signal again once it has shut down
    finally:
        service.engine.stop()
    return 0 if server.started else 1
