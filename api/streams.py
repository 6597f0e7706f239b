"""Server-sent events: rows of a job in order, each exactly once, until the job is final.

A stream keeps a cursor and nothing else. It reads the next rows when the client has taken the last ones, so a slow
client costs no memory; it sleeps until the tail says that there may be more, and pings while nothing happens. A client
that comes back with the id of the last row it saw (Last-Event-ID, or ?after=) goes on behind it.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from anyio import CancelScope, fail_after, to_thread
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

PING_SECONDS = 15.0
ROWS_PER_READ = 200
RECONNECT_MS = 1000
"""How long a browser waits before it comes back, as this server tells it."""


class Batch(Protocol):
    @property
    def items(self) -> Sequence[Any]: ...

    @property
    def done(self) -> bool: ...


class Follower(Protocol):
    """A cursor over one job's rows. `take` may block; it returns the next rows, and `done` when none can follow.
    `take_ready` does the same from memory, or returns None."""

    def take_ready(self, limit: int) -> Batch | None: ...

    def take(self, limit: int) -> Batch: ...

    def close(self) -> None: ...


class OpenStreams:
    """All streams of a server, so that it can end them when it stops. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: set[Callable[[], None]] = set()
        self.closing = False

    def add(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wakes.add(wake)

    def remove(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wakes.discard(wake)

    def close_all(self) -> None:
        """Each stream ends before its next row; clients come back to the next server and lose nothing."""
        self.closing = True
        for wake in tuple(self._wakes):  # without the lock: a signal handler may have interrupted its owner
            wake()


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What is streamed: where rows come from, and how they and the end look on the wire."""

    follow: Callable[[Callable[[], None]], Follower]
    """Opens the cursor; the function that it is given is called, from any thread, when there may be more."""
    encode: Callable[[Any], bytes]
    encode_end: Callable[[], bytes]
    """May block."""


def encode_row(event: str, row_id: str, json: str) -> bytes:
    return format_sse_event(event=event, id=row_id, data_str=json)


def encode_end(json: str) -> bytes:
    return format_sse_event(event="done", data_str=json)


class _Bell:
    """Rung from any thread, heard by one coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:
            return  # the loop has closed: nobody listens any more

    def silence(self) -> None:
        self._rung.clear()

    async def heard_within(self, seconds: float) -> bool:
        try:
            with fail_after(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True


class EventStream(EventSourceResponse):
    """The answer to a request for a stream. `feed.follow` was not called yet; refusals belong before this."""

    def __init__(self, feed: Feed, streams: OpenStreams) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(content=iter(()), headers=headers)
        self._feed, self._streams = feed, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bell = _Bell()
        follower = await to_thread.run_sync(self._feed.follow, bell.ring)
        self._streams.add(bell.ring)
        try:
            async with aclosing(self._chunks(follower, bell)) as self.body_iterator:
                await super().__call__(scope, receive, send)
        finally:
            self._streams.remove(bell.ring)
            with CancelScope(shield=True):
                await to_thread.run_sync(follower.close)

    async def _chunks(self, follower: Follower, bell: _Bell) -> AsyncGenerator[bytes]:
        yield format_sse_event(retry=RECONNECT_MS)
        while not self._streams.closing:
            bell.silence()
            batch = follower.take_ready(ROWS_PER_READ)
            if batch is None:
                batch = await to_thread.run_sync(follower.take, ROWS_PER_READ)
            if batch.items:
                yield b"".join(map(self._feed.encode, batch.items))
            elif batch.done:
                yield await to_thread.run_sync(self._feed.encode_end)
                return
            elif not await bell.heard_within(PING_SECONDS):
                yield KEEPALIVE_COMMENT
