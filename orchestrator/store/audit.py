"""Who changed what: appended in the transaction of the change, never changed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, Select, insert, or_, select

from orchestrator.domain.queries import ALL_ENTRIES, AuditQuery
from orchestrator.domain.teams import AuditEntry, Caller
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.accounts import audit_entries

AUTOMATIC = "scheduler"
"""In place of a key and a team, where nobody asked."""


def append_entry(
    tx: WriteTx, caller: Caller, action: str, subject: str, *, team_id: str | None = None, data: Mapping[str, Any] = {}
) -> None:
    """`team_id` is whose log it belongs to, the caller's own when left out."""
    tx.execute(
        insert(audit_entries).values(
            at=tx.now(),
            key_id=caller.key_id,
            team_id=team_id or caller.team_id,
            action=action,
            subject=subject,
            data=dict(data) or None,
        )
    )


def append_automatic(tx: WriteTx, action: str, subject: str, *, data: Mapping[str, Any] = {}) -> None:
    """What the pool itself did. It is of no team, so admins see it."""
    tx.execute(
        insert(audit_entries).values(
            at=tx.now(), key_id=AUTOMATIC, team_id=AUTOMATIC, action=action, subject=subject, data=dict(data) or None
        )
    )


def list_entries(
    tx: ReadTx, *, team_id: str | None, which: AuditQuery = ALL_ENTRIES, before_id: int | None = None, limit: int = 100
) -> list[AuditEntry]:
    """Newest first; of one team, or of all for None. `before_id` pages back."""
    query = _filtered(which)
    if team_id is not None:
        query = query.where(audit_entries.c.team_id == team_id)
    if before_id is not None:
        query = query.where(audit_entries.c.audit_id < before_id)
    return [_entry(row) for row in tx.rows(query.order_by(audit_entries.c.audit_id.desc()).limit(limit))]


def list_actions(tx: ReadTx, team_id: str | None) -> list[str]:
    """Every verb that the log has, of one team or of all for None."""
    query = select(audit_entries.c.action).distinct().order_by(audit_entries.c.action)
    rows = tx.rows(query if team_id is None else query.where(audit_entries.c.team_id == team_id))
    return [row["action"] for row in rows]


def _filtered(which: AuditQuery) -> Select[Any]:
    entries = audit_entries.c
    query = select(audit_entries)
    if which.actor is not None:
        query = query.where(entries.key_id == which.actor)
    if which.action is not None:
        inside = entries.action.startswith(f"{which.action}.", autoescape=True)
        query = query.where(or_(entries.action == which.action, inside))
    if which.team_id is not None:
        query = query.where(entries.team_id == which.team_id)
    if which.since is not None:
        query = query.where(entries.at >= which.since)
    if which.until is not None:
        query = query.where(entries.at < which.until)
    return query


def _entry(row: RowMapping) -> AuditEntry:
    return AuditEntry(
        audit_id=row["audit_id"],
        at=row["at"],
        key_id=row["key_id"],
        team_id=row["team_id"],
        action=row["action"],
        subject=row["subject"],
        data=row["data"] or {},
    )
