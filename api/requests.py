"""How a JSON body is read: bounded in size and depth before any model sees it.

FastAPI's own limit answers 413 in plain text; this one raises, so that the envelope says it. Streamed bodies (files,
upload parts) do not come through here: `api.multipart` bounds them.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from orchestrator.domain.errors import InvalidRequestError, TooLargeError

MAX_JSON_DEPTH = 32
"""A job's spec is five levels deep; the rest is room for `metadata` of later versions."""


class JsonRequest(Request):
    """A request whose body was read and parsed already."""

    raw: bytes = b""
    value: Any = None

    async def body(self) -> bytes:
        return self.raw

    async def json(self) -> Any:
        return self.value


class JsonRoute(APIRoute):
    """A route whose body, when it takes one, is JSON of at most `settings.max_body_bytes`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            parsed = JsonRequest(request.scope, request.receive)
            parsed.raw = await read_bounded(request, request.app.state.settings.max_body_bytes)
            if parsed.raw:
                _require_json_type(request)
                parsed.value = parse_json(parsed.raw)
            return await handle(parsed)

        return handle_json


async def read_bounded(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLargeError as soon as the announced or the received size is over the limit."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLargeError(f"the body has {announced} bytes; at most {limit} are accepted here")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLargeError(f"the body is over {limit} bytes, the most that is accepted here")
    return bytes(body)


def _require_json_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidRequestError(
            f"the body must be sent as Content-Type: application/json, not {kind or 'without one'}",
            code="unsupported_content_type",
        )


def parse_json(body: bytes) -> Any:
    """Strict JSON: no NaN, no NUL characters (PostgreSQL's text holds none), at most MAX_JSON_DEPTH levels."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", code="invalid_json"
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequestError("the body is not UTF-8", code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    _check_value(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"the body is not JSON: {name} is not a JSON value", code="invalid_json")


def _check_value(value: Any) -> None:
    """Without recursion, so that no body can exhaust the stack."""
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str) and "\0" in item:
            raise InvalidRequestError("the body holds a NUL character", code="invalid_json")
        if not isinstance(item, dict | list):
            continue
        if depth > MAX_JSON_DEPTH:
            raise _too_deep()
        children = (*item, *item.values()) if isinstance(item, dict) else item
        pending.extend((child, depth + 1) for child in children)


def _too_deep() -> TooLargeError:
    return TooLargeError(f"the body is nested deeper than {MAX_JSON_DEPTH} levels", code="too_deep")
