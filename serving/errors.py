"""Errors in OpenAI's form."""

from typing import Any


class ApiError(Exception):
    """What a client is told instead of a result.

    Args:
        status: of HTTP.
        message: for a person.
        kind: `type` of OpenAI's error objects.
        param: the field of the body that is wrong.
        code: for a program.
        retry_after: seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """HTTP headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, retry_after: int = 5) -> ApiError:
    """Status 503: the server is being shut down."""
    return ApiError(503, message, kind="server_error", code="shutting_down", retry_after=retry_after)


def internal_error() -> ApiError:
    """Status 500; what happened is in the log only."""
    return ApiError(500, "the server failed; its log says why", kind="server_error", code="internal_error")
