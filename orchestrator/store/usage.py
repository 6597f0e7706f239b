"""The ledger, joined with whose job and which attempt it was: in sums by group, or entry by entry.

The ledger's dates are of UTC. Nothing here is stored: every figure is a sum over entries.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, RowMapping, Select, and_, case, cast, extract, func, select, tuple_

from orchestrator.domain.failures import FAILURE_RULES, Blame
from orchestrator.domain.states import AttemptState
from orchestrator.domain.usage_sums import Dimension, LedgerLine, Period, Slice, Use
from orchestrator.store.ledger import day_number, day_of, read_entry
from orchestrator.store.session import ReadTx
from orchestrator.store.tables.attempts import attempts, ledger_entries
from orchestrator.store.tables.jobs import jobs

_ENTRIES = ledger_entries.c
_AMOUNT = _ENTRIES.amount_usd_micros
_OWN_FAULTS = sorted(kind for kind, rule in FAILURE_RULES.items() if rule.blame is not Blame.PLATFORM)
_FAILED_BY_ITSELF = and_(attempts.c.state == AttemptState.FAILED, attempts.c.failure_kind.in_(_OWN_FAULTS))
_USE: ColumnElement[str] = case(
    (and_(_ENTRIES.billed, _FAILED_BY_ITSELF), Use.FAILED.value),
    (_ENTRIES.billed, Use.USEFUL.value),
    (and_(attempts.c.preempt_rule.is_not(None), attempts.c.failure_kind.is_(None)), Use.PREEMPTED.value),
    else_=Use.FAILED.value,
)
_COLUMNS: dict[Dimension, ColumnElement[Any]] = {
    Dimension.TEAM: _ENTRIES.team_id,
    Dimension.USER: jobs.c.created_by,
    Dimension.DEVICE: func.coalesce(_ENTRIES.device_id, attempts.c.device_id),
    Dimension.DEVICE_TYPE: _ENTRIES.device_type,
    Dimension.MODEL: jobs.c.model_name,
}


def list_slices(
    tx: ReadTx, team_id: str | None, period: Period, dimensions: Sequence[Dimension], *, limit: int
) -> list[Slice]:
    """At most `limit` slices of a team's entries, or of the pool's for None."""
    keys = [_column(tx, dimension).label(f"of_{dimension.value}") for dimension in dimensions]
    shares = [_ENTRIES.rate_reserved_bytes, _ENTRIES.rate_device_bytes]
    query = select(
        *keys,
        _USE.label("of_use"),
        *shares,
        func.sum(_microseconds(tx)).label("microseconds"),
        func.sum(case((_ENTRIES.billed, _AMOUNT), else_=0)).label("billed"),
        func.sum(_AMOUNT).label("total"),
        func.count().label("entries"),
    )
    names = [*(key.name for key in keys), "of_use"]  # by name: PostgreSQL takes two parameters for two expressions
    found = _within(query, team_id, period).group_by(*names, *shares).limit(limit)
    return [_slice(row, dimensions) for row in tx.rows(found)]


def list_lines(
    tx: ReadTx, team_id: str | None, period: Period, *, as_of: datetime, after: tuple[str, int] | None, limit: int
) -> list[LedgerLine]:
    """The next entries behind `after` (attempt id and interval), in the order of these; those that were there `as_of`
    a moment, so that pages of one walk are of one ledger."""
    place = (_ENTRIES.attempt_id, _ENTRIES.interval)
    query = select(
        ledger_entries,
        _USE.label("of_use"),
        attempts.c.number,
        jobs.c.created_by,
        jobs.c.model_name,
        jobs.c.fine_tuned_model,
        jobs.c.array_id,
        jobs.c.spec,
    ).where(_ENTRIES.created_at <= as_of)
    if after is not None:
        query = query.where(tuple_(*place) > after)
    return [_line(row) for row in tx.rows(_within(query, team_id, period).order_by(*place).limit(limit))]


def list_device_seconds(tx: ReadTx, job_ids: Collection[str]) -> dict[str, dict[str, float]]:
    """What the ended attempts of these jobs ran, billed or not, in seconds of whole devices by type. A job without
    entries is absent."""
    if not job_ids:
        return {}
    shares = [_ENTRIES.rate_reserved_bytes, _ENTRIES.rate_device_bytes]
    keys = [_ENTRIES.job_id, _ENTRIES.device_type, *shares]
    query = select(*keys, func.sum(_microseconds(tx)).label("microseconds"))
    found: dict[str, dict[str, float]] = {}
    for row in tx.rows(query.where(_ENTRIES.job_id.in_(sorted(job_ids))).group_by(*keys)):
        share = row["rate_reserved_bytes"] / row["rate_device_bytes"]
        by_type = found.setdefault(row["job_id"], {})
        seconds = int(row["microseconds"]) / 1e6 * share
        by_type[row["device_type"]] = by_type.get(row["device_type"], 0.0) + seconds
    return found


def _within(query: Select[Any], team_id: str | None, period: Period) -> Select[Any]:
    found = query.join(attempts, attempts.c.attempt_id == _ENTRIES.attempt_id).join(
        jobs, jobs.c.job_id == _ENTRIES.job_id
    )
    if team_id is not None:
        found = found.where(_ENTRIES.team_id == team_id)
    if period.since is not None:
        found = found.where(_ENTRIES.started_at >= period.since)
    if period.until is not None:
        found = found.where(_ENTRIES.started_at < period.until)
    return found


def _column(tx: ReadTx, dimension: Dimension) -> ColumnElement[Any]:
    return day_number(tx) if dimension is Dimension.DAY else _COLUMNS[dimension]


def _microseconds(tx: ReadTx) -> ColumnElement[int]:
    if tx.is_postgres:
        return cast(extract("epoch", _ENTRIES.ended_at - _ENTRIES.started_at) * 1_000_000, BigInteger)
    return cast(_ENTRIES.ended_at, BigInteger) - cast(_ENTRIES.started_at, BigInteger)


def _slice(row: RowMapping, dimensions: Sequence[Dimension]) -> Slice:
    return Slice(
        keys=tuple(_text(row[f"of_{dimension.value}"]) for dimension in dimensions),
        use=Use(row["of_use"]),
        reserved_bytes=row["rate_reserved_bytes"],
        device_bytes=row["rate_device_bytes"],
        microseconds=int(row["microseconds"]),
        billed_usd_micros=int(row["billed"]),
        lost_usd_micros=int(row["total"]) - int(row["billed"]),
        entries=row["entries"],
    )


def _text(value: str | int) -> str:
    return value if isinstance(value, str) else day_of(value).isoformat()


def _line(row: RowMapping) -> LedgerLine:
    return LedgerLine(
        entry=read_entry(row),
        use=Use(row["of_use"]),
        attempt_number=row["number"],
        created_by=row["created_by"],
        model_name=row["model_name"],
        fine_tuned_model=row["fine_tuned_model"],
        array_id=row["array_id"],
        metadata=row["spec"].get("metadata"),
    )
