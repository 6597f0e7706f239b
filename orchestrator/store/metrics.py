"""Metrics of attempts, as `orchestrator.store.logs` keeps lines. A figure that is not finite is not kept."""

import math
from collections.abc import Collection, Iterable

from sqlalchemy import RowMapping, Text, select, type_coerce

from orchestrator.domain.jobs import MetricRecord
from orchestrator.domain.protocol import Entry, Metric
from orchestrator.store.logs import read_worker_clock
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.jobs import job_metrics


def append_metrics(tx: WriteTx, job_id: str, attempt_id: str, attempt_number: int, entries: Iterable[Entry]) -> int:
    """Store the metrics among `entries` and return how many were new."""
    rows = [
        {
            "job_id": job_id,
            "attempt_id": attempt_id,
            "attempt_number": attempt_number,
            "seq": entry.seq,
            "at": read_worker_clock(entry.at_unix, tx.now()),
            "step": entry.report.step,
            "values": {name: value for name, value in entry.report.values.items() if math.isfinite(value)},
        }
        for entry in entries
        if isinstance(entry.report, Metric)
    ]
    if not rows:
        return 0
    tx.lock_feed()
    statement = tx.insert(job_metrics).on_conflict_do_nothing(index_elements=["attempt_id", "seq"])
    return len(tx.rows(statement.returning(job_metrics.c.metric_id), rows))


def list_metrics(tx: ReadTx, job_id: str, after_id: int = 0, limit: int = 100) -> list[MetricRecord]:
    """The next ones after `after_id`, oldest first."""
    query = select(job_metrics).where(job_metrics.c.job_id == job_id, job_metrics.c.metric_id > after_id)
    return [_metric(row) for row in tx.rows(query.order_by(job_metrics.c.metric_id).limit(limit))]


def list_metrics_of(tx: ReadTx, job_ids: Collection[str], after_id: int, limit: int) -> list[MetricRecord]:
    """For many followers at once: the next ones of these jobs after `after_id`, in the order of `metric_id`."""
    query = select(job_metrics).where(job_metrics.c.metric_id > after_id, job_metrics.c.job_id.in_(sorted(job_ids)))
    return [_metric(row) for row in tx.rows(query.order_by(job_metrics.c.metric_id).limit(limit))]


def find_least(tx: ReadTx, job_ids: Collection[str], name: str) -> dict[str, float]:
    """The least value of a figure in each of these jobs; one that never had it is absent.

    Only rows whose text has the name are read, which leaves out the many that are about a training step.
    """
    has_it = type_coerce(job_metrics.c["values"], Text).contains(f'"{name}":', autoescape=True)
    query = select(job_metrics.c.job_id, job_metrics.c["values"]).where(
        job_metrics.c.job_id.in_(sorted(job_ids)), has_it
    )
    least: dict[str, float] = {}
    for row in tx.rows(query):
        value = row["values"].get(name)
        if value is not None:
            least[row["job_id"]] = min(value, least.get(row["job_id"], value))
    return least


def _metric(row: RowMapping) -> MetricRecord:
    return MetricRecord(
        metric_id=row["metric_id"],
        job_id=row["job_id"],
        attempt_number=row["attempt_number"],
        seq=row["seq"],
        at=row["at"],
        step=row["step"],
        values=row["values"],
    )
