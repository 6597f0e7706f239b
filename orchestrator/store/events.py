"""What happened to a job, in order: `seq` counts from 1 without holes, because the job's row hands it out."""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import RowMapping, and_, bindparam, func, insert, or_, select, update

from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.ids import new_event_id
from orchestrator.domain.jobs import Event
from orchestrator.domain.pages import Page
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.jobs import events, jobs

Level = Literal["info", "warn", "error"]
JOBS_PER_QUERY = 200
"""Engines limit the parameters of a statement; each followed job takes two."""

_NEXT_SEQ = (
    update(jobs)
    .where(jobs.c.job_id == bindparam("of"))
    .values(last_event_seq=jobs.c.last_event_seq + 1)
    .returning(jobs.c.last_event_seq)
)
_INSERT = insert(events)


def append_event(
    tx: WriteTx,
    job_id: str,
    *,
    message: str,
    level: Level = "info",
    type: str = "message",  # noqa: A002 - the word on the wire
    data: Mapping[str, Any] | None = None,
) -> Event:
    """Add the next event. The job's row stays locked until the transaction ends, so no number is lost or doubled."""
    seq = tx.scalar(_NEXT_SEQ, {"of": job_id})
    if seq is None:
        raise NotFoundError(f"No such job: {job_id}")
    return insert_numbered_event(tx, job_id, seq=seq, message=message, level=level, type=type, data=data)


def insert_numbered_event(
    tx: WriteTx,
    job_id: str,
    *,
    seq: int,
    message: str,
    level: Level = "info",
    type: str = "message",  # noqa: A002 - the word on the wire
    data: Mapping[str, Any] | None = None,
) -> Event:
    """For a caller that has taken `seq` from the job's row in the same statement as its own change."""
    values: dict[str, Any] = {
        "job_id": job_id,
        "seq": seq,
        "event_id": new_event_id(),
        "created_at": tx.now(),
        "level": level,
        "message": message,
        "type": type,
        "data": None if data is None else dict(data),
    }
    tx.execute(_INSERT, values)
    return Event(**values)


def list_events(
    tx: ReadTx, job_id: str, *, limit: int = 20, after: str | None = None, descending: bool = True
) -> Page[Event]:
    """`after` is an event's id. Raises InvalidRequestError when it is not an event of this job."""
    listing = Listing(table=events, key=events.c.event_id, order_by=(events.c.seq,), where=(events.c.job_id == job_id,))
    return read_page(tx, listing, _event, limit=limit, after=after, descending=descending)


def list_events_since(tx: ReadTx, job_id: str, seq: int, limit: int) -> list[Event]:
    """The next events after `seq`, oldest first."""
    query = select(events).where(events.c.job_id == job_id, events.c.seq > seq).order_by(events.c.seq)
    return [_event(row) for row in tx.rows(query.limit(limit))]


def list_events_of(tx: ReadTx, after_seq_by_job: Mapping[str, int], limit: int) -> list[Event]:
    """For many followers at once: each job's next events after its own `seq`, oldest first in each job.

    Of each 200 jobs at most `limit` events; what is missing comes with the next call.
    """
    found: list[Event] = []
    pairs = sorted(after_seq_by_job.items())
    for start in range(0, len(pairs), JOBS_PER_QUERY):
        wanted = or_(
            *(
                and_(events.c.job_id == job_id, events.c.seq > seq)
                for job_id, seq in pairs[start : start + JOBS_PER_QUERY]
            )
        )
        query = select(events).where(wanted).order_by(events.c.job_id, events.c.seq).limit(limit)
        found.extend(_event(row) for row in tx.rows(query))
    return found


def get_last_seq(tx: ReadTx, job_id: str) -> int:
    """The newest event's; 0 when there is none."""
    return int(tx.scalar(select(func.max(events.c.seq)).where(events.c.job_id == job_id)) or 0)


def get_event_seq(tx: ReadTx, job_id: str, event_id: str) -> int:
    """Where a reader stopped. Raises NotFoundError when the event is not this job's."""
    seq = tx.scalar(select(events.c.seq).where(events.c.event_id == event_id, events.c.job_id == job_id))
    if seq is None:
        raise NotFoundError(f"No such event: {event_id}")
    return int(seq)


def _event(row: RowMapping) -> Event:
    return Event(
        event_id=row["event_id"],
        job_id=row["job_id"],
        seq=row["seq"],
        created_at=row["created_at"],
        level=row["level"],
        message=row["message"],
        type=row["type"],
        data=row["data"],
    )
