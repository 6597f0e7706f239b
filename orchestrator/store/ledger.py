"""The ledger: append-only, one row per interval of an attempt. A bill is a sum over it and nothing else."""

from collections.abc import Collection
from datetime import date, datetime, timedelta
from typing import TypeVar

from sqlalchemy import BigInteger, ColumnElement, RowMapping, and_, case, cast, extract, func, select, true

from orchestrator.domain.attempts import LedgerEntry
from orchestrator.domain.pricing import Rate
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import ledger_entries
from orchestrator.store.tables.jobs import jobs

_AMOUNT = ledger_entries.c.amount_usd_micros
_BILLED = func.coalesce(func.sum(case((ledger_entries.c.billed, _AMOUNT), else_=0)), 0)
_TOTAL = func.coalesce(func.sum(_AMOUNT), 0)
MICROSECONDS_PER_DAY = 86_400_000_000
_EPOCH = date(1970, 1, 1)
Key = TypeVar("Key")


def append_entry(tx: WriteTx, entry: LedgerEntry) -> None:
    """Appending an interval of an attempt again changes nothing."""
    statement = tx.insert(ledger_entries).values(
        attempt_id=entry.attempt_id,
        interval=entry.interval,
        job_id=entry.job_id,
        team_id=entry.team_id,
        device_id=entry.device_id,
        device_type=entry.device_type,
        started_at=entry.started_at,
        ended_at=entry.ended_at,
        price_usd_micros_per_hour=entry.rate.price_usd_micros_per_hour,
        rate_reserved_bytes=entry.rate.reserved_bytes,
        rate_device_bytes=entry.rate.device_bytes,
        amount_usd_micros=entry.amount_usd_micros,
        billed=entry.billed,
        created_at=entry.created_at,
    )
    tx.execute(statement.on_conflict_do_nothing(index_elements=["attempt_id", "interval"]))


def list_entries(tx: ReadTx, *, job_id: str | None = None, team_id: str | None = None) -> list[LedgerEntry]:
    """Oldest first; without a filter, the whole pool's."""
    query = select(ledger_entries)
    if job_id is not None:
        query = query.where(ledger_entries.c.job_id == job_id)
    if team_id is not None:
        query = query.where(ledger_entries.c.team_id == team_id)
    order = (ledger_entries.c.started_at, ledger_entries.c.attempt_id, ledger_entries.c.interval)
    return [read_entry(row) for row in tx.rows(query.order_by(*order))]


def sum_for_job(tx: ReadTx, job_id: str) -> tuple[int, int]:
    """(billed to the team, lost and billed to nobody), in micro-dollars. Time that still runs is not in it."""
    return _sums(tx, job_id=job_id, team_id=None)


def sum_for_team(
    tx: ReadTx, team_id: str | None, *, since: datetime | None = None, until: datetime | None = None
) -> tuple[int, int]:
    """As `sum_for_job`, over a team's jobs, or the whole pool's for None.

    Of a period, the intervals that began in it: at `since` or later and before `until`, so that periods add up.
    """
    return _sums(tx, job_id=None, team_id=team_id, since=since, until=until)


def sum_by_job(tx: ReadTx, job_ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """As `sum_for_job`, for many; a job without entries is absent."""
    return _sums_by(tx, ledger_entries.c.job_id, ledger_entries.c.job_id.in_(sorted(job_ids)))


def sum_by_device_type(tx: ReadTx) -> dict[str, tuple[int, int]]:
    """As `sum_for_job`, over the whole pool."""
    return _sums_by(tx, ledger_entries.c.device_type, true())


def sum_by_team_and_model(
    tx: ReadTx, team_id: str | None, *, since: datetime, until: datetime
) -> dict[tuple[str, str], tuple[int, int]]:
    """As `sum_for_team`, by the team's id and the base model's name."""
    query = (
        select(ledger_entries.c.team_id, jobs.c.model_name, _BILLED.label("billed"), _TOTAL.label("total"))
        .join(jobs, jobs.c.job_id == ledger_entries.c.job_id)
        .where(ledger_entries.c.started_at >= since, ledger_entries.c.started_at < until)
        .group_by(ledger_entries.c.team_id, jobs.c.model_name)
    )
    if team_id is not None:
        query = query.where(ledger_entries.c.team_id == team_id)
    return {
        (row["team_id"], row["model_name"]): (int(row["billed"]), int(row["total"]) - int(row["billed"]))
        for row in tx.rows(query)
    }


def sum_by_day(tx: ReadTx, team_id: str | None, *, since: datetime, until: datetime) -> dict[date, tuple[int, int]]:
    """As `sum_for_team`, by the UTC day in which an interval began; a day without any is absent."""
    where = and_(ledger_entries.c.started_at >= since, ledger_entries.c.started_at < until)
    if team_id is not None:
        where = and_(where, ledger_entries.c.team_id == team_id)
    return {day_of(number): sums for number, sums in _sums_by(tx, day_number(tx), where).items()}


def day_number(tx: ReadTx) -> ColumnElement[int]:
    """The day in which an interval began, in days since 1970. Moments are microseconds on SQLite (see
    `orchestrator.store.columns`)."""
    began = ledger_entries.c.started_at
    if tx.is_postgres:
        return cast(func.floor(extract("epoch", began) / 86_400), BigInteger)
    return cast(began, BigInteger).op("/")(MICROSECONDS_PER_DAY)


def day_of(number: int) -> date:
    return _EPOCH + timedelta(days=number)


def _sums_by(tx: ReadTx, key: ColumnElement[Key], where: ColumnElement[bool]) -> dict[Key, tuple[int, int]]:
    query = select(key.label("key"), _BILLED.label("billed"), _TOTAL.label("total")).where(where).group_by("key")
    return {row["key"]: (int(row["billed"]), int(row["total"]) - int(row["billed"])) for row in tx.rows(query)}


def _sums(
    tx: ReadTx,
    *,
    job_id: str | None,
    team_id: str | None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[int, int]:
    query = select(_BILLED.label("billed"), _TOTAL.label("total"))
    if job_id is not None:
        query = query.where(ledger_entries.c.job_id == job_id)
    if team_id is not None:
        query = query.where(ledger_entries.c.team_id == team_id)
    if since is not None:
        query = query.where(ledger_entries.c.started_at >= since)
    if until is not None:
        query = query.where(ledger_entries.c.started_at < until)
    row = tx.row(query)
    assert row is not None
    return int(row["billed"]), int(row["total"]) - int(row["billed"])


def read_entry(row: RowMapping) -> LedgerEntry:
    return LedgerEntry(
        attempt_id=row["attempt_id"],
        interval=row["interval"],
        job_id=row["job_id"],
        team_id=row["team_id"],
        device_type=row["device_type"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        rate=Rate(
            price_usd_micros_per_hour=row["price_usd_micros_per_hour"],
            reserved_bytes=row["rate_reserved_bytes"],
            device_bytes=row["rate_device_bytes"],
        ),
        amount_usd_micros=row["amount_usd_micros"],
        billed=row["billed"],
        created_at=row["created_at"],
        device_id=row["device_id"],
    )
