"""What held devices, and when: attempts from their placement until they gave the device back."""

from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, select

from orchestrator.domain.shares import Hold
from orchestrator.store.session import ReadTx
from orchestrator.store.tables.attempts import attempts


def list_holds(tx: ReadTx, since: datetime, *, team_id: str | None = None, limit: int) -> list[Hold]:
    """What still holds a device, and of what gave it back after `since` the latest `limit`; the longest held first
    within both. Of one team, or of all for None."""
    lasting = _list(tx, attempts.c.released_at.is_(None), team_id, None)
    past = _list(tx, attempts.c.released_at > since, team_id, limit)
    return lasting + past


def _list(tx: ReadTx, which: ColumnElement[bool], team_id: str | None, limit: int | None) -> list[Hold]:
    query = select(attempts).where(which).order_by(attempts.c.released_at.desc(), attempts.c.created_at).limit(limit)
    rows = tx.rows(query if team_id is None else query.where(attempts.c.team_id == team_id))
    return [hold for row in rows for hold in _holds(row)]


def _holds(row: RowMapping) -> list[Hold]:
    """Of one attempt, on each of its devices; its share of the pool is divided evenly among them."""
    more = row["more_devices"] or ()
    part, rest = divmod(row["rate_micros"], 1 + len(more))
    first = (row["device_id"], row["device_type"], row["reserved_bytes"], part + rest)
    others = [(device["device_id"], device["device_type"], device["reserved_bytes"], part) for device in more]
    return [
        Hold(
            attempt_id=row["attempt_id"],
            job_id=row["job_id"],
            team_id=row["team_id"],
            device_id=device_id,
            device_type=device_type,
            node_name=row["node_name"],
            reserved_bytes=reserved_bytes,
            peak_device_bytes=row["peak_device_bytes"],
            rate_micros=rate_micros,
            since_at=row["created_at"],
            until_at=row["released_at"],
        )
        for device_id, device_type, reserved_bytes, rate_micros in (first, *others)
    ]
