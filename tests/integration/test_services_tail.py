"""The live tail: any reader gets every row once and in order, whenever it joins and however slowly it reads."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import NotFoundError, StoreUnavailableError
from orchestrator.domain.outcomes import cancelled
from orchestrator.domain.teams import Caller, Role
from orchestrator.services import tail as tail_module
from orchestrator.services.tail import Follower, Kind, Tail, cursor_of
from orchestrator.store import attempts, events, logs
from orchestrator.store.session import ReadTx, Store
from tests.support.rows import add_running_attempt, add_team, make_lines

POLL_SECONDS = 0.02


@pytest.fixture
def tail(store: Store) -> Iterator[Tail]:
    made = Tail(store, poll_seconds=POLL_SECONDS)
    yield made
    made.close()


@pytest.fixture
def attempt(store: Store) -> Attempt:
    with store.write() as tx:
        return add_running_attempt(tx)


def _caller(attempt: Attempt) -> Caller:
    return Caller(key_id="key-1", team_id=attempt.team_id, team_name="t", role=Role.VIEWER)


def _append(store: Store, attempt: Attempt, first: int, last: int) -> None:
    with store.write() as tx:
        logs.append_logs(tx, attempt.job_id, attempt.attempt_id, attempt.number, make_lines(first, last))


def _end(store: Store, attempt: Attempt) -> None:
    with store.write() as tx:
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, cancelled(), ended_at=tx.now())


class Reader(threading.Thread):
    """Reads a stream to its end, as a connection would: take, and wait for the wake when there was nothing."""

    def __init__(self, tail: Tail, attempt: Attempt, kind: Kind = "logs", *, after: int = 0, limit: int = 100) -> None:
        super().__init__(daemon=True)
        self._bell = threading.Event()
        self._limit = limit
        self._follower: Follower = tail.follow(_caller(attempt), attempt.job_id, kind, after=after, wake=self._bell.set)
        self.seen: list[int] = []
        self.start()

    def run(self) -> None:
        while True:
            self._bell.clear()
            batch = self._follower.take(self._limit)
            self.seen += [cursor_of(row) for row in batch.items]
            if batch.done:
                self._follower.close()
                return
            if not batch.items:
                self._bell.wait(30)

    def finish(self) -> list[int]:
        self.join(30)
        assert not self.is_alive(), f"the stream did not end after {len(self.seen)} rows"
        return self.seen


def _all_ids(store: Store, attempt: Attempt) -> list[int]:
    with store.read() as tx:
        return [line.log_id for line in logs.list_logs(tx, attempt.job_id, limit=100_000)]


def test_readers_that_join_at_any_moment_get_every_line_once(store: Store, tail: Tail, attempt: Attempt) -> None:
    _append(store, attempt, 1, 50)
    readers = [Reader(tail, attempt)]
    for start in range(51, 1051, 50):
        _append(store, attempt, start, start + 49)
        readers.append(Reader(tail, attempt, limit=random.randint(1, 60)))
    _end(store, attempt)
    readers.append(Reader(tail, attempt))
    expected = _all_ids(store, attempt)
    assert len(expected) == 1050
    assert all(reader.finish() == expected for reader in readers)


def test_a_reader_goes_on_after_its_cursor(store: Store, tail: Tail, attempt: Attempt) -> None:
    _append(store, attempt, 1, 100)
    middle = _all_ids(store, attempt)[59]
    reader = Reader(tail, attempt, after=middle)
    _append(store, attempt, 101, 120)
    _end(store, attempt)
    assert reader.finish() == [log_id for log_id in _all_ids(store, attempt) if log_id > middle]


def test_a_slow_reader_falls_back_to_the_database(
    store: Store, tail: Tail, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "WINDOW_ROWS", 10)
    quick = Reader(tail, attempt)
    slow = tail.follow(_caller(attempt), attempt.job_id, "logs", after=0, wake=lambda: None)
    for start in range(1, 401, 40):
        _append(store, attempt, start, start + 39)
    _end(store, attempt)
    expected = _all_ids(store, attempt)
    assert quick.finish() == expected
    seen: list[int] = []
    while not (batch := slow.take(7)).done:
        seen += [cursor_of(row) for row in batch.items]
    slow.close()
    assert seen == expected


def test_events_end_with_the_job(store: Store, tail: Tail, attempt: Attempt) -> None:
    reader = Reader(tail, attempt, "events")
    with store.write() as tx:
        events.append_event(tx, attempt.job_id, message="Something happened.")
    _end(store, attempt)
    seen = reader.finish()
    assert seen == list(range(1, len(seen) + 1))
    with store.read() as tx:
        assert events.list_events(tx, attempt.job_id).items[0].seq == seen[-1]


def test_lines_of_other_jobs_do_not_come(store: Store, tail: Tail, attempt: Attempt) -> None:
    with store.write() as tx:
        other = add_running_attempt(tx)
    reader, other_reader = Reader(tail, attempt), Reader(tail, other)
    for start in range(1, 101, 10):
        _append(store, attempt, start, start + 9)
        _append(store, other, start, start + 9)
    _end(store, attempt)
    _end(store, other)
    assert reader.finish() == _all_ids(store, attempt)
    assert other_reader.finish() == _all_ids(store, other)
    assert not set(reader.seen) & set(other_reader.seen)


def test_another_team_cannot_follow(store: Store, tail: Tail, attempt: Attempt) -> None:
    with store.write() as tx:
        other = add_team(tx)
    stranger = Caller(key_id="key-2", team_id=other.team_id, team_name="o", role=Role.MEMBER)
    with pytest.raises(NotFoundError):
        tail.follow(stranger, attempt.job_id, "logs", after=0, wake=lambda: None)


def test_the_thread_ends_with_the_last_follower(store: Store, tail: Tail, attempt: Attempt) -> None:
    before = threading.active_count()
    _end(store, attempt)
    Reader(tail, attempt).finish()
    tail.close()
    assert threading.active_count() <= before


class Interrupted(Store):
    """A database whose connection is lost at the end of each of the tail's next `failures` transactions."""

    failures = 0

    @contextmanager
    def read(self) -> Iterator[ReadTx]:
        with super().read() as tx:
            yield tx
        if self.failures and threading.current_thread().name == "tail":
            self.failures -= 1
            raise StoreUnavailableError


def test_a_database_that_fails_in_the_middle_leaves_no_gap(database_url: str) -> None:
    """Also while the first window is opened."""
    store = Interrupted(database_url)
    with store.write() as tx:
        attempt = add_running_attempt(tx)
    tail = Tail(store, poll_seconds=POLL_SECONDS)
    store.failures = 3
    reader = Reader(tail, attempt)
    for first in range(1, 400, 10):
        _append(store, attempt, first, first + 9)
        store.failures += first % 3 == 0
    _end(store, attempt)
    assert reader.finish() == _all_ids(store, attempt)
    tail.close()
    store.close()


def test_a_reader_that_breaks_its_wake_disturbs_no_other(store: Store, tail: Tail, attempt: Attempt) -> None:
    def broken() -> None:
        raise RuntimeError("the loop is closed")

    tail.follow(_caller(attempt), attempt.job_id, "logs", after=0, wake=broken)
    reader = Reader(tail, attempt)
    _append(store, attempt, 1, 50)
    _end(store, attempt)
    assert reader.finish() == _all_ids(store, attempt)
