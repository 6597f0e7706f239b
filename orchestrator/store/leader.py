"""Which control plane acts on attempts. Losing it is harmless: every write about an attempt names its own token."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select

from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.pool import leadership

_ROLE = "scheduler"


@dataclass(frozen=True, kw_only=True)
class Leader:
    """Leads while `expires_at` is ahead of the database's clock."""

    owner: str
    expires_at: datetime


def find_leader(tx: ReadTx) -> Leader | None:
    """Who holds the lease or held it last."""
    row = tx.row(select(leadership).where(leadership.c.role == _ROLE))
    return None if row is None else Leader(owner=row["owner"], expires_at=row["expires_at"])


def claim_leadership(tx: WriteTx, *, owner: str, lease_seconds: float) -> bool:
    """Take or renew the lease; False while another owner's has not run out."""
    now = tx.now()
    statement = tx.insert(leadership).values(role=_ROLE, owner=owner, expires_at=now + timedelta(seconds=lease_seconds))
    ours = leadership.c.owner == statement.excluded.owner
    renewed = statement.on_conflict_do_update(
        index_elements=["role"],
        set_={
            "owner": statement.excluded.owner,
            "expires_at": statement.excluded.expires_at,
        },
        where=or_(ours, leadership.c.expires_at <= now),
    )
    return tx.row(renewed.returning(leadership.c.owner)) is not None


def resign_leadership(tx: WriteTx, owner: str) -> None:
    """Let another take over at once. Does nothing when `owner` does not lead."""
    tx.execute(delete(leadership).where(leadership.c.role == _ROLE, leadership.c.owner == owner))
