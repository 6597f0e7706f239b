"""What ran: one row per attempt that ended, with what its job asked for. Read to simulate the pool's past."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from orchestrator.store.session import ReadTx
from orchestrator.store.tables.accounts import teams
from orchestrator.store.tables.attempts import attempts
from orchestrator.store.tables.jobs import jobs
from orchestrator.store.tables.pool import devices

MOST_ATTEMPTS = 50_000


def list_ended(tx: ReadTx, since: datetime, limit: int = MOST_ATTEMPTS) -> list[dict[str, Any]]:
    """Attempts that had a device and ended, of jobs queued since then, by job and number; at most `limit`.

    A device that is not known any more is taken for a GPU.
    """
    query = (
        select(
            jobs.c.job_id,
            teams.c.name.label("team"),
            jobs.c.created_by.label("created_by"),
            jobs.c.priority,
            jobs.c.queued_at,
            func.coalesce(devices.c.kind, "cuda").label("kind"),
            attempts.c.device_type,
            attempts.c.reserved_bytes,
            attempts.c.more_devices,
            attempts.c.started_at,
            attempts.c.ended_at,
        )
        .join(attempts, attempts.c.job_id == jobs.c.job_id)
        .join(teams, teams.c.team_id == jobs.c.team_id)
        .outerjoin(devices, devices.c.device_id == attempts.c.device_id)
        .where(jobs.c.queued_at >= since, attempts.c.started_at.is_not(None), attempts.c.ended_at.is_not(None))
        .order_by(jobs.c.queued_at, jobs.c.job_id, attempts.c.number)
        .limit(limit)
    )
    return [{**row} for row in tx.rows(query)]
