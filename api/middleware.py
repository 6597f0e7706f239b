"""What happens around every request, before any route is known: its id, its log line, its time, its host, and the 500.

Plain ASGI, outermost first: RequestContext, HostCheck, then `api.auth.Authentication` and `api.ratelimit.RateLimit`.
Nothing here reads a body.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import envelope, error_response
from api.metrics import HttpMetrics
from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.ids import new_uuid7_hex

log = structlog.get_logger("tunepool.api")

_SANE_REQUEST_ID = re.compile(r"^[A-Za-z0-9_-]{8,128}$")
CLIENT_GONE_STATUS = 499
"""Logged when the client left before the answer began (nginx's number); never sent."""


class RequestContext:
    """Gives every request an id, answers what nobody caught with a 500, and writes one log line and one measurement."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _SANE_REQUEST_ID.match(asked) else "req_" + new_uuid7_hex()
        scope.setdefault("state", {})["request_id"] = request_id
        await _Exchange(scope, send, request_id, self.metrics).run(self.app, receive)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, request_id: str, metrics: HttpMetrics) -> None:
        self.scope, self.send_on, self.request_id, self.metrics = scope, send, request_id, metrics
        self.started_at = time.perf_counter()
        self.begun_seconds: float | None = None
        self.status: int | None = None

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app(self.scope, receive, self.send)
        except ClientDisconnect:
            self.status = self.status or CLIENT_GONE_STATUS
        except Exception:
            log.exception("request failed", request_id=self.request_id, path=self.scope["path"])
            if self.status is not None:
                raise  # the answer has begun: the server can only cut the connection
            answer = error_response(TunepoolError(), request_id=self.request_id)
            await answer(self.scope, receive, self.send)
        finally:
            self.finish()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            self.begun_seconds = self.elapsed_seconds()
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = str(round(self.begun_seconds * 1000))
            headers.setdefault("x-content-type-options", "nosniff")
            headers.setdefault("cache-control", "no-store")
        await self.send_on(message)

    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self.started_at

    def finish(self) -> None:
        """`route` is the template, so that identifiers do not become labels; the log has the path, never the query.

        Measured is the time until the answer began: a stream lasts as long as its reader likes.
        """
        route = getattr(self.scope.get("route"), "path", None)
        status = self.status or CLIENT_GONE_STATUS
        seconds = self.elapsed_seconds()
        self.metrics.observe(self.scope["method"], route or "unmatched", status, self.begun_seconds or seconds)
        state: dict[str, Any] = self.scope["state"]
        caller = state.get("caller")
        log.info(
            "request",
            request_id=self.request_id,
            method=self.scope["method"],
            path=self.scope["path"],
            status=status,
            ms=round(seconds * 1000, 1),
            team=caller.team_name if caller else None,
            retry=Headers(scope=self.scope).get("x-stainless-retry-count"),
        )


class HostCheck:
    """Answers only under the names in `allowed_hosts`, which defeats DNS rebinding; '*' allows every name."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        self.app = app
        self.allowed = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._find_refusal(scope)
            if refusal:
                code, message = refusal
                await envelope(400, message, code=code)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _find_refusal(self, scope: Scope) -> tuple[str, str] | None:
        host = Headers(scope=scope).get("host", "")
        name = re.sub(r":\d+$", "", host).lower()
        if "*" not in self.allowed and name not in self.allowed:
            return "invalid_host", f"this server does not answer to the name {name!r}; see TUNEPOOL_ALLOWED_HOSTS"
        if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
            return "invalid_value", "the address holds a NUL character"
        return None
