"""Server-sent streams: every row once and in order, no reading ahead of a slow client, an end when the server ends."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from starlette.types import Message

from api import streams
from api.streams import EventStream, Feed, OpenStreams, encode_end, encode_row


@dataclass
class Batch:
    items: Sequence[int]
    done: bool


@dataclass
class Rows:
    """A job's rows and one cursor over them, as the tail gives it."""

    rows: list[int] = field(default_factory=list)
    final: bool = False
    cursor: int = 0
    asked: int = 0
    takes: int = 0
    closed: bool = False
    wake: Callable[[], None] = lambda: None

    def follow(self, wake: Callable[[], None]) -> "Rows":
        self.wake = wake
        return self

    def take_ready(self, limit: int) -> Batch | None:
        """Every other time from memory."""
        self.asked += 1
        return self.take(limit) if self.asked % 2 else None

    def take(self, limit: int) -> Batch:
        self.takes += 1
        items = [row for row in self.rows if row > self.cursor][: min(limit, 3)]
        self.cursor = items[-1] if items else self.cursor
        return Batch(items, self.final and self.cursor == max(self.rows, default=0))

    def close(self) -> None:
        self.closed = True

    def add(self, *rows: int, final: bool = False) -> None:
        """As the hub does it, from a thread of its own."""
        self.rows.extend(rows)
        self.final = self.final or final
        thread = threading.Thread(target=self.wake)
        thread.start()
        thread.join()


@dataclass
class Client:
    """What a browser would see; `gate` holds back each chunk until it is opened."""

    gate: anyio.Semaphore | None = None
    text: str = ""
    ended: bool = False
    left: anyio.Event = field(default_factory=anyio.Event)
    heard: Callable[[str], None] = lambda _: None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            if self.gate:
                await self.gate.acquire()
            self.text += message["body"].decode()
            self.ended = self.ended or not message["more_body"]
            self.heard(self.text)

    def ids(self) -> list[int]:
        return [int(line.removeprefix("id: ")) for line in self.text.splitlines() if line.startswith("id: ")]


def _feed(rows: Rows) -> Feed:
    return Feed(
        follow=rows.follow,
        encode=lambda row: encode_row("log", str(row), f'{{"n":{row}}}'),
        encode_end=lambda: encode_end('{"status":"succeeded"}'),
    )


SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}}


async def _serve(rows: Rows, client: Client, open_streams: OpenStreams) -> None:
    await EventStream(_feed(rows), open_streams)(SCOPE, client.receive, client.send)


def test_rows_that_are_there_come_in_order_and_the_stream_ends_with_done() -> None:
    async def run() -> None:
        rows, client = Rows(rows=list(range(1, 11)), final=True), Client()
        await _serve(rows, client, OpenStreams())
        assert client.ids() == list(range(1, 11))
        assert client.ended
        assert client.text.startswith("retry: 1000\n\n")
        assert client.text.endswith('event: done\ndata: {"status":"succeeded"}\n\n')
        assert rows.closed

    anyio.run(run)


def test_rows_that_come_later_are_sent_when_they_come() -> None:
    async def run() -> None:
        rows, client = Rows(rows=[1, 2]), Client()
        seen_two, seen_four = anyio.Event(), anyio.Event()
        client.heard = lambda text: (seen_two if "id: 4" not in text else seen_four).set() if "id: 2" in text else None
        async with anyio.create_task_group() as group:
            group.start_soon(_serve, rows, client, OpenStreams())
            await seen_two.wait()
            rows.add(3, 4)
            await seen_four.wait()
            rows.add(5, final=True)
        assert client.ids() == [1, 2, 3, 4, 5]
        assert client.ended

    anyio.run(run)


def test_a_slow_client_is_not_read_ahead_of() -> None:
    async def run() -> None:
        rows, client = Rows(rows=list(range(1, 1000)), final=True), Client(gate=anyio.Semaphore(0))
        async with anyio.create_task_group() as group:
            group.start_soon(_serve, rows, client, OpenStreams())
            for chunk in range(1, 20):
                assert client.gate is not None
                client.gate.release()
                await anyio.wait_all_tasks_blocked()
                assert rows.takes <= chunk
            client.left.set()
        assert rows.closed

    anyio.run(run)


def test_a_silent_stream_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.01)

    async def run() -> None:
        rows, client, pinged = Rows(), Client(), anyio.Event()
        client.heard = lambda text: pinged.set() if text.count(": ping") >= 2 else None
        async with anyio.create_task_group() as group:
            group.start_soon(_serve, rows, client, OpenStreams())
            await pinged.wait()
            rows.add(1, final=True)
        assert client.ids() == [1]

    anyio.run(run)


def test_a_client_that_leaves_closes_its_cursor() -> None:
    async def run() -> None:
        rows, client, open_streams, begun = Rows(), Client(), OpenStreams(), anyio.Event()
        client.heard = lambda _: begun.set()
        async with anyio.create_task_group() as group:
            group.start_soon(_serve, rows, client, open_streams)
            await begun.wait()
            client.left.set()
        assert rows.closed
        assert not client.ended
        assert not open_streams._wakes

    anyio.run(run)


def test_a_server_that_stops_ends_its_streams_without_done() -> None:
    async def run() -> None:
        rows, clients, open_streams = [Rows(rows=[1]), Rows(rows=[1])], [Client(), Client()], OpenStreams()
        async with anyio.create_task_group() as group:
            for row, client in zip(rows, clients, strict=True):
                begun = anyio.Event()
                client.heard = lambda text, begun=begun: begun.set() if "id: 1" in text else None  # type: ignore[misc]
                group.start_soon(_serve, row, client, open_streams)
                await begun.wait()
            await anyio.to_thread.run_sync(open_streams.close_all)
        assert all(client.ended and "done" not in client.text for client in clients)
        assert all(row.closed for row in rows)

    anyio.run(run)


def test_a_line_break_in_a_row_does_not_break_the_stream() -> None:
    assert encode_row("log", "ftlog-1", '{"text":"a\\nb"}') == b'event: log\ndata: {"text":"a\\nb"}\nid: ftlog-1\n\n'
