"""How many requests a key may send: a bucket of a minute's worth for each key, in this process's memory.

A bucket fills evenly, so a key that was silent may send a minute's requests at once. A stream counts once, when it is
opened. Every process of the API counts for itself. The buckets live on the event loop and need no lock.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from orchestrator.domain.errors import RateLimitedError

MAX_BUCKETS = 4096
"""Full buckets are forgotten when there are more; a key without one starts with a full one."""
WINDOW_SECONDS = 60.0


@dataclass
class Bucket:
    """`tokens` were left at `at`, seconds of the limiter's clock."""

    tokens: float
    at: float


class RateLimit:
    """Stands behind `api.auth.Authentication`: a request without a caller is a public one, and free."""

    def __init__(self, app: ASGIApp, per_minute: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self.per_minute = per_minute
        self.per_second = per_minute / WINDOW_SECONDS
        self._monotonic = monotonic
        self._buckets: dict[str, Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope["state"].get("caller") if scope["type"] == "http" else None
        if caller is None:
            await self.app(scope, receive, send)
            return
        tokens = self.take(caller.key_id)
        headers = self._headers(tokens)
        if tokens < 0:
            error = RateLimitedError(f"this key may send {self.per_minute} requests a minute; wait a moment")
            answer = error_response(error, request_id=scope["state"]["request_id"])
            answer.headers.update({**headers, "retry-after": str(math.ceil(-tokens / self.per_second))})
            await answer(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self.app(scope, receive, send_with_limits)

    def take(self, key_id: str) -> float:
        """The tokens left after this request; below zero, and nothing is taken, when there was not a whole one."""
        now = self._monotonic()
        bucket = self._buckets.get(key_id)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._forget_full(now)
            bucket = self._buckets[key_id] = Bucket(float(self.per_minute), now)
        bucket.tokens = min(self.per_minute, bucket.tokens + (now - bucket.at) * self.per_second)
        bucket.at = now
        if bucket.tokens < 1:
            return bucket.tokens - 1
        bucket.tokens -= 1
        return bucket.tokens

    def _forget_full(self, now: float) -> None:
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket.at < WINDOW_SECONDS}

    def _headers(self, tokens: float) -> dict[str, str]:
        """OpenAI's names. The reset is the time until the bucket is full again."""
        left = max(0, math.floor(tokens))
        reset_seconds = (self.per_minute - max(0.0, tokens)) / self.per_second
        return {
            "x-ratelimit-limit-requests": str(self.per_minute),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": f"{math.ceil(reset_seconds * 1000)}ms",
        }
