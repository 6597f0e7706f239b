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

LOGS, METRICS, EVENTS = "log", "metric", "event"


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One job, as its caller sees it."""

    caller: Caller
    job_id: str
    jobs: Jobs
    tail: Tail


def stream_logs(request: Request, job: Followed, after: str | None, keep: Callable[[Any], bool]) -> EventStream:
    """`keep` chooses among the lines; what is left out still moves the cursor."""
    job.jobs.get(job.caller, job.job_id)
    cursor = read_cursor(after, LOG_ID)
    encode = partial(_encode, LOGS, LogOut.of)
    return _open(request, job, "logs", cursor, lambda row: encode(row) if keep(row) else b"")


def stream_metrics(request: Request, job: Followed, after: str | None) -> EventStream:
    job.jobs.get(job.caller, job.job_id)
    return _open(request, job, "metrics", read_cursor(after, METRIC_ID), partial(_encode, METRICS, MetricOut.of))


def stream_events(request: Request, job: Followed, after: str | None) -> EventStream:
    """Raises InvalidRequestError when `after` is not an event of this job."""
    job.jobs.get(job.caller, job.job_id)
    try:
        cursor = 0 if after is None else job.jobs.event_cursor(job.caller, job.job_id, after)
    except NotFoundError:
        raise InvalidRequestError(f"after: no such event of this job: {after!r}", param="after") from None
    return _open(request, job, "events", cursor, partial(_encode, EVENTS, EventOut.of))


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


def _encode(event: str, shape: Callable[[Any], Identified], row: Any) -> bytes:
    shown = shape(row)
    return encode_row(event, shown.id, shown.model_dump_json())
