"""What held devices, and when: attempts from their placement until they gave the devices back."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, func, or_, select

from orchestrator.domain.attempts import HeldDevice
from orchestrator.domain.idle import Held
from orchestrator.domain.pricing import Rate
from orchestrator.domain.shares import Hold
from orchestrator.domain.usage_sums import Period
from orchestrator.store.columns import Moment
from orchestrator.store.session import ReadTx
from orchestrator.store.tables.attempts import attempts

_DEVICES = (
    attempts.c.device_id,
    attempts.c.device_type,
    attempts.c.price_usd_micros_per_hour,
    attempts.c.rate_reserved_bytes,
    attempts.c.rate_device_bytes,
    attempts.c.more_devices,
)
"""What `read_devices` needs."""
_HOLDS = (
    attempts.c.attempt_id,
    attempts.c.job_id,
    attempts.c.team_id,
    attempts.c.node_name,
    attempts.c.peak_device_bytes,
    attempts.c.rate_micros,
    attempts.c.created_at,
    attempts.c.released_at,
    *_DEVICES,
)


def read_devices(row: RowMapping) -> tuple[HeldDevice, ...]:
    """All devices of an attempt's row, in the order of its processes' ranks."""
    first = HeldDevice(
        device_id=row["device_id"],
        device_type=row["device_type"],
        rate=Rate(
            price_usd_micros_per_hour=row["price_usd_micros_per_hour"],
            reserved_bytes=row["rate_reserved_bytes"],
            device_bytes=row["rate_device_bytes"],
        ),
    )
    return (first, *(HeldDevice(**{**device, "rate": Rate(**device["rate"])}) for device in row["more_devices"] or ()))


def list_holds(
    tx: ReadTx, since: datetime, *, team_id: str | None = None, limit: int
) -> tuple[Sequence[Hold], datetime]:
    """What holds devices, and what gave them back after `since`, of one team, or of all for None; and since when that
    is told in full: later than `since` where `limit` attempts ended."""
    query = select(*_HOLDS) if team_id is None else select(*_HOLDS).where(attempts.c.team_id == team_id)
    lasting = tx.rows(query.where(attempts.c.released_at.is_(None)))
    ended = query.where(attempts.c.released_at > since).order_by(attempts.c.released_at.desc(), attempts.c.created_at)
    past = tx.rows(ended.limit(limit))
    complete_since: datetime = past[-1]["released_at"] if len(past) == limit else since
    return [hold for row in (*lasting, *past) for hold in _holds(row)], complete_since


def list_held(tx: ReadTx, period: Period, *, limit: int) -> list[Held]:
    """Holds on devices of at most `limit` attempts that reach into the period; None for an end that is not proved."""
    query = select(attempts.c.created_at, attempts.c.released_at, *_DEVICES).limit(limit)
    if period.since is not None:
        query = query.where(or_(attempts.c.released_at.is_(None), attempts.c.released_at > period.since))
    if period.until is not None:
        query = query.where(attempts.c.created_at < period.until)
    return [
        Held(
            device_id=device.device_id,
            since_at=row["created_at"],
            until_at=row["released_at"],
            reserved_bytes=device.rate.reserved_bytes,
            device_bytes=device.rate.device_bytes,
        )
        for row in tx.rows(query)
        for device in read_devices(row)
    ]


def list_newest_releases(tx: ReadTx, since: datetime) -> dict[str, datetime]:
    """By node, when an attempt last gave a device of it back, if that was at `since` or later."""
    newest = func.max(attempts.c.released_at, type_=Moment()).label("released_at")
    query = select(attempts.c.node_name, newest).where(attempts.c.released_at >= since)
    return {row["node_name"]: row["released_at"] for row in tx.rows(query.group_by(attempts.c.node_name))}


def _holds(row: RowMapping) -> list[Hold]:
    """Of one attempt, on each of its devices; its share of the pool is divided evenly among them."""
    devices = read_devices(row)
    part, rest = divmod(row["rate_micros"], len(devices))
    return [
        Hold(
            attempt_id=row["attempt_id"],
            job_id=row["job_id"],
            team_id=row["team_id"],
            device_id=device.device_id,
            device_type=device.device_type,
            node_name=row["node_name"],
            reserved_bytes=device.rate.reserved_bytes,
            peak_device_bytes=row["peak_device_bytes"],
            rate_micros=part if number else part + rest,
            since_at=row["created_at"],
            until_at=row["released_at"],
        )
        for number, device in enumerate(devices)
    ]
