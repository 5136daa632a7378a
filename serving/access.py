"""Around every request: a line in the log, measurements, and the API key."""

import hmac
import logging
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arche_mdlm.serving.errors import ApiError
from arche_mdlm.serving.measures import Measures

logger = logging.getLogger("arche_mdlm.serving")
CLIENT_LEFT = 499  # in the log and the measurements, as nginx has it


def answer_of(error: ApiError) -> JSONResponse:
    """The HTTP answer for an error."""
    return JSONResponse(error.body(), error.status, headers=error.headers())


class Access:
    """ASGI middleware. What an endpoint puts into `scope["state"]["about"]` is logged too; texts never are.

    Args:
        api_key: what a client has to send to the paths below `/v1`, as `Authorization: Bearer KEY`; None: nothing.
    """

    def __init__(self, app: ASGIApp, measures: Measures, api_key: str | None) -> None:
        self.app, self.measures, self.api_key = app, measures, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, number = time.monotonic(), secrets.token_hex(6)
        about: dict[str, Any] = {}
        scope.setdefault("state", {})["about"] = about
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            if self._may_enter(scope):
                await self.app(scope, receive, noted)
            else:
                refusal = ApiError(
                    401, "the API key is missing or wrong: send it as Authorization: Bearer KEY", code="invalid_api_key"
                )
                await answer_of(refusal)(scope, receive, noted)
        finally:
            self._note(scope, number, about.pop("status", status), time.monotonic() - start, about)

    def _may_enter(self, scope: Scope) -> bool:
        if self.api_key is None or not scope["path"].startswith("/v1"):
            return True
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.api_key.encode())

    def _note(self, scope: Scope, number: str, status: int, seconds: float, about: dict[str, Any]) -> None:
        endpoint = getattr(
            scope.get("route"), "path", "other"
        )  # one label for all unknown paths, which are unlimited in number
        self.measures.requests.labels(endpoint, str(status)).inc()
        self.measures.seconds.labels(endpoint).observe(seconds)
        if status == CLIENT_LEFT:
            self.measures.left.inc()
        path = scope["path"].encode("ascii", "backslashreplace").decode()[:100]
        more = "".join(f" {name}={value}" for name, value in about.items())
        level = logging.DEBUG if endpoint in ("/health", "/metrics") and status == 200 else logging.INFO
        logger.log(level, "%s %s %r %d %.3fs%s", number, scope["method"], path, status, seconds, more)
