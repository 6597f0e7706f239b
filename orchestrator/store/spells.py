"""When each device was there and took jobs, as far as surveys saw it: spells, prolonged by each survey.

A spell ends where it was last seen. So its end is at most half a minute early, and what nobody watched, because no
control plane ran, is in no spell.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from sqlalchemy import and_, select, update

from orchestrator.domain.idle import Spell
from orchestrator.domain.usage_sums import Period
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.pool import device_spells as spells

LONGEST_GAP = timedelta(minutes=2)
"""Between two surveys of one spell; a pool that does not change is surveyed for the record every 30 s."""


def record_spells(tx: WriteTx, offered: Mapping[str, str]) -> None:
    """Prolong, begin and end spells: `offered` are the devices that are there and take jobs now, with their types."""
    now = tx.now()
    known = {row["device_id"]: row for row in tx.rows(select(spells).where(spells.c.is_open.is_(True)))}
    kept = [
        device_id
        for device_id, row in known.items()
        if offered.get(device_id) == row["device_type"] and now - row["until_at"] <= LONGEST_GAP
    ]
    _close(tx, known.keys() - set(kept))
    # Earlier for who waited for a lock: on PostgreSQL a transaction's clock stands still from its begin.
    is_earlier = and_(spells.c.is_open.is_(True), spells.c.device_id.in_(sorted(kept)), spells.c.until_at < now)
    tx.execute(update(spells).where(is_earlier).values(until_at=now))
    for device_id in sorted(offered.keys() - set(kept)):
        values = {"until_at": now, "device_type": offered[device_id], "is_open": True}
        statement = tx.insert(spells).values(device_id=device_id, since_at=now, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["device_id", "since_at"], set_=values))


def _close(tx: WriteTx, device_ids: Collection[str]) -> None:
    if device_ids:
        closed = and_(spells.c.is_open.is_(True), spells.c.device_id.in_(sorted(device_ids)))
        tx.execute(update(spells).where(closed).values(is_open=False))


def list_spells(tx: ReadTx, period: Period, *, limit: int) -> list[Spell]:
    """At most `limit` spells that reach into the period, by device and begin; whole, not cut to the period."""
    query = select(spells).order_by(spells.c.device_id, spells.c.since_at).limit(limit)
    if period.since is not None:
        query = query.where(spells.c.until_at > period.since)
    if period.until is not None:
        query = query.where(spells.c.since_at < period.until)
    return [
        Spell(
            device_id=row["device_id"],
            device_type=row["device_type"],
            since_at=row["since_at"],
            until_at=row["until_at"],
        )
        for row in tx.rows(query)
    ]


def list_open_since(tx: ReadTx) -> dict[str, datetime]:
    """Since when each device that is there and takes jobs has done so, by id."""
    query = select(spells.c.device_id, spells.c.since_at).where(spells.c.is_open.is_(True))
    return {row["device_id"]: row["since_at"] for row in tx.rows(query)}
