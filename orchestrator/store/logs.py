"""Log lines of attempts. (attempt, seq) is unique, so a pull that is replayed adds nothing.

`log_id` grows over the whole database and lines become visible in its order, so one number is a reader's whole memory.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from sqlalchemy import RowMapping, func, select

from orchestrator.domain.jobs import LogRecord
from orchestrator.domain.protocol import Entry, LogLine
from orchestrator.domain.queries import ALL_LINES, LineQuery
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.jobs import job_logs, job_metrics


def append_logs(tx: WriteTx, job_id: str, attempt_id: str, attempt_number: int, entries: Iterable[Entry]) -> int:
    """Store the log lines among `entries` and return how many were new."""
    rows = [
        {
            "job_id": job_id,
            "attempt_id": attempt_id,
            "attempt_number": attempt_number,
            "seq": entry.seq,
            "at": read_worker_clock(entry.at_unix, tx.now()),
            "stream": entry.report.stream,
            "level": entry.report.level,
            "text": entry.report.text,
        }
        for entry in entries
        if isinstance(entry.report, LogLine)
    ]
    if not rows:
        return 0
    tx.lock_feed()
    statement = tx.insert(job_logs).on_conflict_do_nothing(index_elements=["attempt_id", "seq"])
    return len(tx.rows(statement.returning(job_logs.c.log_id), rows))


def read_worker_clock(at_unix: float, otherwise: datetime) -> datetime:
    """A worker's clock is shown and never trusted: what is no moment becomes `otherwise`."""
    try:
        return datetime.fromtimestamp(at_unix, UTC)
    except (OverflowError, ValueError, OSError):
        return otherwise


def list_logs(
    tx: ReadTx,
    job_id: str,
    *,
    after_id: int = 0,
    limit: int = 100,
    which: LineQuery = ALL_LINES,
) -> list[LogRecord]:
    """The next lines behind `after_id`, oldest first, or newest first from the end when `after_id` is 0."""
    query = select(job_logs).where(job_logs.c.job_id == job_id)
    if after_id:
        query = query.where(job_logs.c.log_id < after_id if which.descending else job_logs.c.log_id > after_id)
    if which.attempt is not None:
        query = query.where(job_logs.c.attempt_number == which.attempt)
    if which.level is not None:
        query = query.where(job_logs.c.level == which.level)
    if which.text:
        query = query.where(job_logs.c.text.icontains(which.text, autoescape=True))
    order = job_logs.c.log_id.desc() if which.descending else job_logs.c.log_id
    return [_log(row) for row in tx.rows(query.order_by(order).limit(limit))]


def list_last_logs(tx: ReadTx, job_id: str, limit: int) -> list[LogRecord]:
    """The newest lines, oldest of them first."""
    query = select(job_logs).where(job_logs.c.job_id == job_id).order_by(job_logs.c.log_id.desc()).limit(limit)
    return [_log(row) for row in reversed(tx.rows(query))]


def list_logs_of(tx: ReadTx, job_ids: Collection[str], after_id: int, limit: int) -> list[LogRecord]:
    """For many followers at once: the next lines of these jobs after `after_id`, in the order of `log_id`."""
    query = select(job_logs).where(job_logs.c.log_id > after_id, job_logs.c.job_id.in_(sorted(job_ids)))
    return [_log(row) for row in tx.rows(query.order_by(job_logs.c.log_id).limit(limit))]


def latest_ids(tx: ReadTx) -> tuple[int, int]:
    """The highest (log_id, metric_id) that is visible; 0 when there is none."""
    log_id = tx.scalar(select(func.max(job_logs.c.log_id)))
    metric_id = tx.scalar(select(func.max(job_metrics.c.metric_id)))
    return log_id or 0, metric_id or 0


def _log(row: RowMapping) -> LogRecord:
    return LogRecord(
        log_id=row["log_id"],
        job_id=row["job_id"],
        attempt_number=row["attempt_number"],
        seq=row["seq"],
        at=row["at"],
        stream=row["stream"],
        level=row["level"],
        text=row["text"],
    )
