"""Which rows a job's streams carry, and how each looks on the wire. A stream can go on behind any row, by its id."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from api.schemas.activity import LOG_ID, METRIC_ID, EventOut, LogOut, MetricOut, read_cursor
from api.schemas.jobs import JobEnd
from api.schemas.wire import Identified
from api.streams import EventStream, Feed, encode_end, encode_row
from orchestrator.domain.errors import InvalidRequestError, NotFoundError
from orchestrator.domain.teams import Caller
from orchestrator.services.jobs import Jobs
from orchestrator.services.tail import Kind, Tail

KEPT_ROWS = 4096
"""Twice the tail's window. A line has at most 8 KiB, so this is 32 MiB at the very worst."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One job, as its caller sees it."""

    caller: Caller
    job_id: str
    jobs: Jobs
    tail: Tail


@dataclass(frozen=True)
class Look:
    """How rows of one kind go out: the event's name, the row's id, and the object that pages show too."""

    event: str
    name: Callable[[Any], str]
    shape: Callable[[Any], Identified]


LOGS = Look("log", lambda row: f"{LOG_ID}{row.log_id}", LogOut.of)
METRICS = Look("metric", lambda row: f"{METRIC_ID}{row.metric_id}", MetricOut.of)
EVENTS = Look("event", lambda row: str(row.event_id), EventOut.of)


class EncodedRows:
    """The newest rows as they go out: hundreds may follow one job, and a row looks the same to all of them."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}

    def encode(self, look: Look, row: Any) -> bytes:
        """Called on the event loop only, so no lock is needed."""
        name = look.name(row)
        known = self._rows.get(name)
        if known is None:
            if len(self._rows) >= KEPT_ROWS:
                self._rows.clear()
            known = self._rows[name] = encode_row(look.event, name, look.shape(row).model_dump_json())
        return known


def stream_logs(request: Request, job: Followed, after: str | None, keep: Callable[[Any], bool]) -> EventStream:
    """`keep` chooses among the lines; what is left out still moves the cursor."""
    job.jobs.get(job.caller, job.job_id)
    rows: EncodedRows = request.app.state.encoded_rows
    cursor = read_cursor(after, LOG_ID)
    return _open(request, job, "logs", cursor, lambda row: rows.encode(LOGS, row) if keep(row) else b"")


def stream_metrics(request: Request, job: Followed, after: str | None) -> EventStream:
    job.jobs.get(job.caller, job.job_id)
    rows: EncodedRows = request.app.state.encoded_rows
    return _open(request, job, "metrics", read_cursor(after, METRIC_ID), partial(rows.encode, METRICS))


def stream_events(request: Request, job: Followed, after: str | None) -> EventStream:
    """Raises InvalidRequestError when `after` is not an event of this job."""
    job.jobs.get(job.caller, job.job_id)
    try:
        cursor = 0 if after is None else job.jobs.event_cursor(job.caller, job.job_id, after)
    except NotFoundError:
        raise InvalidRequestError(f"after: no such event of this job: {after!r}", param="after") from None
    rows: EncodedRows = request.app.state.encoded_rows
    return _open(request, job, "events", cursor, partial(rows.encode, EVENTS))


def _open(request: Request, job: Followed, kind: Kind, after: int, encode: Callable[[Any], bytes]) -> EventStream:
    def end() -> bytes:
        found = job.jobs.get(job.caller, job.job_id)
        return encode_end(JobEnd(id=found.job_id, object="fine_tuning.job", status=found.state.value).model_dump_json())

    feed = Feed(
        follow=lambda wake: job.tail.follow(job.caller, job.job_id, kind, after=after, wake=wake),
        encode=encode,
        encode_end=end,
    )
    return EventStream(feed, request.app.state.streams)
