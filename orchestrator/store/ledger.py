"""The ledger: append-only, one row per interval of an attempt. A bill is a sum over it and nothing else."""

from sqlalchemy import RowMapping, case, func, select

from orchestrator.domain.attempts import LedgerEntry
from orchestrator.domain.pricing import Rate
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import ledger_entries


def append_entry(tx: WriteTx, entry: LedgerEntry) -> None:
    """Appending an interval of an attempt again changes nothing."""
    statement = tx.insert(ledger_entries).values(
        attempt_id=entry.attempt_id,
        interval=entry.interval,
        job_id=entry.job_id,
        team_id=entry.team_id,
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
    return [_entry(row) for row in tx.rows(query.order_by(*order))]


def sum_for_job(tx: ReadTx, job_id: str) -> tuple[int, int]:
    """(billed to the team, lost and billed to nobody), in micro-dollars. Time that still runs is not in it."""
    return _sums(tx, job_id=job_id, team_id=None)


def sum_for_team(tx: ReadTx, team_id: str | None) -> tuple[int, int]:
    """As `sum_for_job`, over a team's jobs, or the whole pool's for None."""
    return _sums(tx, job_id=None, team_id=team_id)


def _sums(tx: ReadTx, *, job_id: str | None, team_id: str | None) -> tuple[int, int]:
    amount = ledger_entries.c.amount_usd_micros
    billed = func.coalesce(func.sum(case((ledger_entries.c.billed, amount), else_=0)), 0)
    total = func.coalesce(func.sum(amount), 0)
    query = select(billed.label("billed"), total.label("total"))
    if job_id is not None:
        query = query.where(ledger_entries.c.job_id == job_id)
    if team_id is not None:
        query = query.where(ledger_entries.c.team_id == team_id)
    row = tx.row(query)
    assert row is not None
    return int(row["billed"]), int(row["total"]) - int(row["billed"])


def _entry(row: RowMapping) -> LedgerEntry:
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
    )
