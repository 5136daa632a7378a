"""The HTTP application: OpenAI's endpoints, `/health` and `/metrics`."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from arche_mdlm.serving.access import CLIENT_LEFT, Access, answer_of
from arche_mdlm.serving.answers import Answer, event, usage_of
from arche_mdlm.serving.engine import Engine
from arche_mdlm.serving.errors import ApiError, bad_request, internal_error
from arche_mdlm.serving.job import ClientLeft, Job
from arche_mdlm.serving.requests import ChatRequest, CompletionRequest, Request, parse
from arche_mdlm.serving.served_model import ServedModel

logger = logging.getLogger("arche_mdlm.serving")


@dataclass(frozen=True)
class Service:
    """What the endpoints work with.

    Args:
        max_body_bytes: of a request.
        timeout: seconds, of a request, waiting counted.
    """

    served: ServedModel
    engine: Engine
    api_key: str | None = None
    max_body_bytes: int = 2**20
    timeout: float = 300.0


def build_app(service: Service) -> FastAPI:
    """The application; its engine is started and stopped by the caller."""
    app = FastAPI(title="arche-mdlm", docs_url=None, redoc_url=None, openapi_url=None)
    measures = service.engine.measures
    app.add_middleware(Access, measures=measures, api_key=service.api_key)
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _fail)
    measures.waiting.set_function(lambda: len(service.engine.waiting))
    measures.running.set_function(lambda: sum(not row.is_over for row in service.engine.running))

    @app.post("/v1/completions")
    async def completions(request: HttpRequest) -> Response:
        return await _complete(service, request, CompletionRequest)

    @app.post("/v1/chat/completions")
    async def chat(request: HttpRequest) -> Response:
        return await _complete(service, request, ChatRequest)

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [service.served.describe()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict:
        if name != service.served.name:
            raise ApiError(404, f"there is no model {name[:200]!r}", param="model", code="model_not_found")
        return service.served.describe()

    @app.get("/health")
    async def health() -> Response:
        engine = service.engine
        state = "shutting down" if engine.closing else "ok" if engine.is_alive() else "failed"
        return JSONResponse({"status": state, "model": service.served.name}, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(measures.page(), media_type="text/plain; version=0.0.4")

    return app


async def _complete(service: Service, request: HttpRequest, kind: type[Request]) -> Response:
    body = parse(kind, await _json(request, service.max_body_bytes))
    about = request.scope["state"]["about"]
    rows = await asyncio.to_thread(service.served.rows, body)
    choices, stream = body.n or 1, bool(body.stream)
    about |= {"n": len(rows), "prompt_tokens": usage_of(rows, choices)["prompt_tokens"], "stream": stream}
    job = Job(service.engine, rows, service.timeout)
    answer = Answer(rows, service.served.name, kind is ChatRequest, choices, stream)
    if stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            _events(service, request, job, answer, usage), media_type="text/event-stream", headers=headers
        )
    try:
        async for _ in job.changes(request):
            if answer.failed():
                break
    except ClientLeft:
        about["status"] = CLIENT_LEFT
        return Response(status_code=CLIENT_LEFT)
    if error := answer.failed():
        service.engine.drop(rows)
        raise error
    _count(service, answer, about)
    return JSONResponse(answer.whole())


async def _events(service: Service, request: HttpRequest, job: Job, answer: Answer, usage: bool) -> AsyncIterator[str]:
    """The answer in parts. An error in the middle is an event too, as the status is sent by then."""
    about = request.scope["state"]["about"]
    about["status"] = CLIENT_LEFT  # unless it comes to its end
    try:
        for part in answer.first():
            yield event(part)
        async for _ in job.changes(request):
            for part in answer.news():
                yield event(part)
    except ClientLeft:
        return
    except ApiError as error:
        about["status"] = error.status
        yield event(error.body())
        return
    except Exception:
        logger.exception("a stream failed")
        about["status"] = 500
        yield event(internal_error().body())
        return
    about["status"] = 200
    _count(service, answer, about)
    if usage:
        yield event(answer.usage())
    yield event("[DONE]")


def _count(service: Service, answer: Answer, about: dict[str, Any]) -> None:
    found = usage_of(answer.rows, answer.choices)
    service.engine.measures.prompt_tokens.inc(found["prompt_tokens"])
    service.engine.measures.completion_tokens.inc(found["completion_tokens"])
    about["completion_tokens"] = found["completion_tokens"]
    about["finish_reason"] = "+".join(sorted({row.finish_reason or "none" for row in answer.rows}))


async def _json(request: HttpRequest, most: int) -> Any:
    """The body as JSON; ApiError 413, before the body is read, for one that is too large."""
    too_large = ApiError(413, f"the body is larger than the {most} bytes that this server takes", code="body_too_large")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise too_large
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


async def _refuse(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return answer_of(error)


async def _refuse_http(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:100]}: {error.detail}"
    return answer_of(ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else None))


async def _fail(request: HttpRequest, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return answer_of(internal_error())
