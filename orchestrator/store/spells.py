"""When each device was there and took jobs, as far as surveys saw it: spells, prolonged by each survey.

A spell ends where it was last seen. So its end is at most half a minute early, and what nobody watched, because no
control plane ran, is in no spell.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, and_, func, or_, select, update

from orchestrator.domain.idle import Held, Spell
from orchestrator.domain.usage_sums import Period
from orchestrator.store.columns import Moment
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import attempts
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


def list_held(tx: ReadTx, period: Period, *, limit: int) -> list[Held]:
    """At most `limit` holds of attempts on devices that reach into the period; None for an end that is not proved."""
    query = select(
        attempts.c.device_id,
        attempts.c.created_at,
        attempts.c.released_at,
        attempts.c.rate_reserved_bytes,
        attempts.c.rate_device_bytes,
        attempts.c.more_devices,
    ).limit(limit)
    if period.since is not None:
        query = query.where(or_(attempts.c.released_at.is_(None), attempts.c.released_at > period.since))
    if period.until is not None:
        query = query.where(attempts.c.created_at < period.until)
    return [held for row in tx.rows(query) for held in _held(row)]


def _held(row: RowMapping) -> list[Held]:
    """Of one attempt, on each of its devices."""
    first = (row["device_id"], row["rate_reserved_bytes"], row["rate_device_bytes"])
    more = [
        (device["device_id"], device["rate"]["reserved_bytes"], device["rate"]["device_bytes"])
        for device in row["more_devices"] or ()
    ]
    return [
        Held(
            device_id=device_id,
            since_at=row["created_at"],
            until_at=row["released_at"],
            reserved_bytes=reserved_bytes,
            device_bytes=device_bytes,
        )
        for device_id, reserved_bytes, device_bytes in (first, *more)
    ]


def list_newest_releases(tx: ReadTx, since: datetime) -> dict[str, datetime]:
    """By node, when an attempt last gave a device of it back, if that was at `since` or later."""
    newest = func.max(attempts.c.released_at, type_=Moment()).label("released_at")
    query = select(attempts.c.node_name, newest).where(attempts.c.released_at >= since)
    return {row["node_name"]: row["released_at"] for row in tx.rows(query.group_by(attempts.c.node_name))}
