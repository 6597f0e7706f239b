"""What the client raises.

ClientError
├─ ApiError(status, code, param, request_id)   the server answered with an error
│  ├─ BadRequestError 400 · UnauthorizedError 401 · ForbiddenError 403 · NotFoundError 404
│  ├─ ConflictError 409 · TooLargeError 413 · RateLimitedError 429 · ServerError 5xx
├─ ConnectionFailedError    no answer, also after the retries
├─ NotConfiguredError       no address or no key was given
├─ DownloadError            a file did not arrive as its manifest says
└─ WaitTimeoutError         the job was not over in time
"""

from typing import Any


class ClientError(Exception):
    """The client could not do what was asked."""


class NotConfiguredError(ClientError):
    """No address or no API key was given."""


class ConnectionFailedError(ClientError):
    """The server does not answer."""


class DownloadError(ClientError):
    """A downloaded file is not what its manifest says."""


class WaitTimeoutError(ClientError):
    """The job was not over in time; it goes on."""


class ApiError(ClientError):
    """The server refused. `code` is stable and made for programs; `param` names the field at fault when there is one.

    `retry_after_seconds` is the server's wish; `retryable` is its own word on whether repeating helps, if it gave one.
    """

    def __init__(self, message: str, *, status: int, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id: str | None = None
        self.retry_after_seconds: float | None = None
        self.retryable: bool | None = None

    def __str__(self) -> str:
        where = f" ({self.param})" if self.param and self.param not in self.message else ""
        return f"{self.message}{where}"


class BadRequestError(ApiError):
    """400: a field, a file or a combination is wrong."""


class UnauthorizedError(ApiError):
    """401: no key, or one that is unknown, revoked or expired."""


class ForbiddenError(ApiError):
    """403: the key's role does not allow it."""


class NotFoundError(ApiError):
    """404: not there, or another team's."""


class ConflictError(ApiError):
    """409: the state does not allow it."""


class TooLargeError(ApiError):
    """413: over a size limit."""


class RateLimitedError(ApiError):
    """429: too many requests, or a limit of the team is used up."""


class ServerError(ApiError):
    """5xx: the server's fault, or a part of it that does not answer."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: BadRequestError,
    429: RateLimitedError,
}


def error_of(status: int, body: Any, headers: dict[str, str]) -> ApiError:
    """The typed error of an answer. A body that is not the API's own (a proxy's page) still gives one."""
    envelope = body.get("error") if isinstance(body, dict) else None
    if not isinstance(envelope, dict):
        envelope = {"message": f"the server answered with status {status} and no explanation"}
    kind = BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    error = kind(
        str(envelope.get("message") or f"status {status}"),
        status=status,
        code=envelope.get("code"),
        param=envelope.get("param"),
    )
    error.request_id = headers.get("x-request-id")
    error.retry_after_seconds = _retry_after(headers)
    wish = headers.get("x-should-retry", "").lower()
    error.retryable = {"true": True, "false": False}.get(wish)
    return error


def _retry_after(headers: dict[str, str]) -> float | None:
    """Seconds; the form with an HTTP date is not used by Tunepool and counts as absent."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
    return None
