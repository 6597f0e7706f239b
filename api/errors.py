"""Which HTTP status an error has and what its body says; no other module knows status codes.

STATUS is total over the classes of `orchestrator.domain.errors`. Every answer that is not a success carries OpenAI's
envelope, {"error": {message, type, code, param}}, whoever raised it: a use case, validation, the router or a bug.
"""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from api.validation import explain_problems
from orchestrator.domain import errors

STATUS: dict[type[errors.TunepoolError], int] = {
    errors.TunepoolError: 500,
    errors.RequestError: 400,
    errors.InvalidRequestError: 400,
    errors.CannotFitError: 400,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.IllegalTransitionError: 409,
    errors.IdempotencyMismatchError: 409,
    errors.InProgressError: 409,
    errors.TooLargeError: 413,
    errors.QuotaExceededError: 429,
    errors.RateLimitedError: 429,
    errors.UnavailableError: 503,
    errors.StoreUnavailableError: 503,
    errors.ObjectsUnavailableError: 503,
    errors.ClusterUnavailableError: 503,
    errors.HubUnavailableError: 503,
    errors.UntraceableError: 500,
    errors.LeaseLostError: 500,
    errors.AttemptGoneError: 500,
}

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_HTTP_CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}
IN_PROGRESS_RETRY_MS = 500
UNAVAILABLE_RETRY_MS = 1000


def find_status(error: errors.TunepoolError) -> int:
    """The status of the nearest class that has a row."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_response(error: errors.TunepoolError, *, request_id: str) -> JSONResponse:
    """The envelope. What went wrong inside stays inside: a 500 says only under which request id the log tells more."""
    status = find_status(error)
    message = error.message
    code = error.code
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"Something went wrong inside Tunepool; the server's log has it under request id {request_id}."
        code = "internal_error"
    return envelope(status, message, code=code, param=error.param, headers=_retry_headers(error, status))


def envelope(
    status: int, message: str, *, code: str | None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = {"error": {"message": message, "type": error_type(status), "code": code, "param": param}}
    return JSONResponse(body, status_code=status, headers=headers)


def error_type(status: int) -> str:
    """OpenAI's word for the family of a status."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _retry_headers(error: errors.TunepoolError, status: int) -> dict[str, str]:
    """The stock client repeats every 409, 429 and 5xx; `x-should-retry` stops it where that is pointless."""
    if isinstance(error, errors.InProgressError):
        return {"x-should-retry": "true", "retry-after-ms": str(IN_PROGRESS_RETRY_MS)}
    if isinstance(error, errors.ConflictError | errors.QuotaExceededError):
        return {"x-should-retry": "false"}
    if isinstance(error, errors.UnavailableError):
        return {"retry-after-ms": str(UNAVAILABLE_RETRY_MS)}
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="tunepool"'}
    return {}


def request_id_of(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def _on_tunepool_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.TunepoolError)
    return error_response(error, request_id=request_id_of(request))


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    field = getattr(request.scope.get("route"), "body_field", None)
    model = field.field_info.annotation if field is not None else None
    problem = explain_problems(error.errors(), body=error.body, model=model)
    return error_response(problem, request_id=request_id_of(request))


def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself raises: unknown address, wrong method."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = {
        404: f"There is nothing at {request.method} {request.url.path}.",
        405: f"{request.method} is not possible at {request.url.path}.",
    }.get(status, str(error.detail))
    headers = dict(error.headers) if error.headers else None
    return envelope(status, message, code=_HTTP_CODES.get(status, "invalid_request"), headers=headers)


def install_handlers(app: FastAPI) -> None:
    """Anything else that is raised is turned into a 500 by `api.middleware.RequestContext`, with its log line."""
    app.add_exception_handler(errors.TunepoolError, _on_tunepool_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
