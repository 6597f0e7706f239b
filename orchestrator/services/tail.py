"""Live rows of jobs for many readers at once: logs, events and metrics, each exactly once and in order.

One thread reads what is new for all followed jobs, one query per kind and tick, into a window that all followers of a
job share. A follower is a cursor: it takes from the window when that reaches far enough back, else from the database.
So a slow reader costs no memory, and five hundred readers of one job cost one query.

A single number can be the cursor of logs and metrics because the store lets one writer of them commit at a time, so ids
become visible in their order; events have a sequence of their own in each job.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import structlog

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.jobs import Event, LogRecord, MetricRecord
from orchestrator.domain.states import FINAL_JOB_STATES
from orchestrator.domain.teams import Caller
from orchestrator.store import events, jobs, logs, metrics
from orchestrator.store.session import ReadTx, Store

Kind = Literal["logs", "events", "metrics"]
Row = LogRecord | Event | MetricRecord
Wake = Callable[[], None]
WINDOW_ROWS = 2000
ROWS_PER_TICK = 5000
LOG = structlog.get_logger("tail")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The next rows after a cursor; `done` when the job is final and none can follow."""

    items: tuple[Row, ...]
    done: bool


Found = TypeVar("Found", Batch, Batch | None)


def cursor_of(row: Row) -> int:
    if isinstance(row, LogRecord):
        return row.log_id
    return row.metric_id if isinstance(row, MetricRecord) else row.seq


@dataclass
class _Channel:
    """What all followers of one job and kind share. `rows` holds every row after `complete_after`, once that is set."""

    job_id: str
    kind: Kind
    rows: list[Row] = field(default_factory=list)
    complete_after: int | None = None
    final: bool = False
    wakes: list[Wake] = field(default_factory=list)

    def extend(self, new: Sequence[Row]) -> None:
        self.rows.extend(new)
        surplus = len(self.rows) - WINDOW_ROWS
        if surplus > 0:
            self.complete_after = cursor_of(self.rows[surplus - 1])
            del self.rows[:surplus]

    @property
    def newest(self) -> int:
        return cursor_of(self.rows[-1]) if self.rows else self.complete_after or 0


class Follower:
    """One reader's cursor. `take` may block on the database; use it from one thread at a time."""

    def __init__(self, tail: "Tail", channel: _Channel, after: int, wake: Wake) -> None:
        self._tail, self._channel, self._after, self._wake = tail, channel, after, wake

    def take_ready(self, limit: int) -> Batch | None:
        """As `take`, from memory and without waiting; None when only the database has what comes next."""
        return self._advance(self._tail.read_window(self._channel, self._after, limit))

    def take(self, limit: int) -> Batch:
        batch = self.take_ready(limit)
        if batch is None:
            batch = self._advance(self._tail.read_database(self._channel, self._after, limit))
        return batch

    def _advance(self, batch: Found) -> Found:
        if batch is not None and batch.items:
            self._after = cursor_of(batch.items[-1])
        return batch

    def close(self) -> None:
        self._tail.leave(self._channel, self._wake)


class Tail:
    """Thread-safe. The thread runs while there are followers, and ends by itself."""

    def __init__(self, store: Store, *, poll_seconds: float = 0.25) -> None:
        self._store, self._poll_seconds = store, poll_seconds
        self._lock = threading.Lock()
        self._channels: dict[tuple[str, Kind], _Channel] = {}
        self._after = {"logs": 0, "metrics": 0}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def follow(self, caller: Caller, job_id: str, kind: Kind, *, after: int, wake: Wake) -> Follower:
        """Rows after the cursor `after`; `wake` is called from the tail's thread when there may be more.

        Raises NotFoundError when the caller does not see the job.
        """
        with self._store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
        with self._lock:
            channel = self._channels.setdefault((job_id, kind), _Channel(job_id=job_id, kind=kind))
            channel.wakes.append(wake)
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
                self._thread.start()
        return Follower(self, channel, after, wake)

    def leave(self, channel: _Channel, wake: Wake) -> None:
        with self._lock:
            if wake in channel.wakes:
                channel.wakes.remove(wake)
            if not channel.wakes:
                self._channels.pop((channel.job_id, channel.kind), None)

    def close(self) -> None:
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def read_window(self, channel: _Channel, after: int, limit: int) -> Batch | None:
        """From memory; None when the window does not reach back to the cursor."""
        with self._lock:
            if channel.complete_after is None or after < channel.complete_after:
                return None
            start = bisect_right(channel.rows, after, key=cursor_of)
            items = tuple(channel.rows[start : start + limit])
            return Batch(items=items, done=channel.final and not items)

    def read_database(self, channel: _Channel, after: int, limit: int) -> Batch:
        """The state is read before the rows, so that a final job's rows are all seen."""
        with self._store.read() as tx:
            final = jobs.get_job(tx, channel.job_id).state in FINAL_JOB_STATES
            items = tuple(_read_rows(tx, channel, after, limit))
        return Batch(items=items, done=final and not items)

    def _run(self) -> None:
        fresh = True
        while not self._stop.wait(0 if fresh else self._poll_seconds):
            with self._lock:
                if not self._channels:
                    self._thread = None
                    return
            try:
                self._tick(fresh=fresh)
                fresh = False
            except TunepoolError as error:
                LOG.warning("tail.failed", code=error.code)
                self._stop.wait(self._poll_seconds)
            except Exception:  # the thread of all readers must live on
                LOG.exception("tail.broken")
                self._stop.wait(self._poll_seconds)

    def _tick(self, *, fresh: bool) -> None:
        """Read once for all channels. A channel that came since the last tick starts its window here.

        Nothing is changed before the transaction has ended, so a tick that fails on the way leaves no gap.
        """
        with self._lock:
            channels = tuple(channel for channel in self._channels.values() if not channel.final)
        if not channels:
            return
        after = dict(self._after)
        with self._store.read() as tx:
            if fresh:
                after["logs"], after["metrics"] = logs.latest_ids(tx)
            started = [channel for channel in channels if channel.complete_after is None]
            starts = {(channel.job_id, channel.kind): self._start_of(tx, channel) for channel in started}
            states = jobs.find_states(tx, {channel.job_id for channel in channels})
            rows = self._read_new(tx, channels, after, starts)
        for kind, row in rows:
            if kind != "events":
                after[kind] = max(after[kind], cursor_of(row))
        self._after = after
        with self._lock:
            for channel in started:
                channel.complete_after = starts[channel.job_id, channel.kind]
        drained = len(rows) < ROWS_PER_TICK
        final = {job_id for job_id, state in states.items() if drained and state in FINAL_JOB_STATES}
        self._hand_out(channels, rows, final)
        for channel in started:
            _ring(channel)

    def _start_of(self, tx: ReadTx, channel: _Channel) -> int:
        if channel.kind == "events":
            return events.get_last_seq(tx, channel.job_id)
        log_id, metric_id = logs.latest_ids(tx)
        return log_id if channel.kind == "logs" else metric_id

    def _read_new(
        self,
        tx: ReadTx,
        channels: Sequence[_Channel],
        after: Mapping[str, int],
        starts: Mapping[tuple[str, Kind], int],
    ) -> list[tuple[Kind, Row]]:
        found: list[tuple[Kind, Row]] = []
        followed: dict[Kind, set[str]] = {"logs": set(), "metrics": set(), "events": set()}
        for channel in channels:
            followed[channel.kind].add(channel.job_id)
        if followed["logs"]:
            lines = logs.list_logs_of(tx, followed["logs"], after["logs"], ROWS_PER_TICK)
            found += [("logs", line) for line in lines]
        if followed["metrics"]:
            points = metrics.list_metrics_of(tx, followed["metrics"], after["metrics"], ROWS_PER_TICK)
            found += [("metrics", point) for point in points]
        if followed["events"]:
            seqs = {
                channel.job_id: starts.get((channel.job_id, channel.kind), channel.newest)
                for channel in channels
                if channel.kind == "events"
            }
            found += [("events", event) for event in events.list_events_of(tx, seqs, ROWS_PER_TICK)]
        return found

    def _hand_out(self, channels: Sequence[_Channel], rows: list[tuple[Kind, Row]], final: set[str]) -> None:
        by_channel: dict[tuple[str, Kind], list[Row]] = {}
        for kind, row in rows:
            by_channel.setdefault((row.job_id, kind), []).append(row)
        for channel in channels:
            new = [row for row in by_channel.get((channel.job_id, channel.kind), ()) if cursor_of(row) > channel.newest]
            ended = channel.job_id in final and not new
            with self._lock:
                channel.extend(new)
                channel.final = ended
            if new or ended:
                _ring(channel)


def _ring(channel: _Channel) -> None:
    """A reader that cannot be woken any more, because its loop is closed, is no concern of the others."""
    for wake in tuple(channel.wakes):
        try:
            wake()
        except RuntimeError as error:
            LOG.warning("tail.wake_failed", job_id=channel.job_id, error=str(error))


def _read_rows(tx: ReadTx, channel: _Channel, after: int, limit: int) -> Sequence[Row]:
    if channel.kind == "logs":
        return logs.list_logs(tx, channel.job_id, after_id=after, limit=limit)
    if channel.kind == "metrics":
        return metrics.list_metrics(tx, channel.job_id, after, limit)
    return events.list_events_since(tx, channel.job_id, after, limit)
