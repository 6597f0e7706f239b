"""The pool's past as a workload for a simulation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any

from orchestrator.domain.teams import Caller
from orchestrator.services.teams import require_admin
from orchestrator.simulation.history import PastJob
from orchestrator.store import history
from orchestrator.store.session import Store


@dataclass(frozen=True)
class History:
    store: Store

    def read(self, caller: Caller, *, days: int) -> list[PastJob]:
        """Jobs of all teams, queued within these days, that had a device at least once. Raises ForbiddenError unless
        the caller runs the pool."""
        require_admin(caller)
        with self.store.read() as tx:
            return merge_attempts(history.list_ended(tx, tx.now() - timedelta(days=days)))


def merge_attempts(rows: Iterable[Mapping[Any, Any]]) -> list[PastJob]:
    """One job for all rows of it, which follow each other: the time of all attempts, the room of the last."""
    found = []
    for job_id, group in groupby(rows, key=lambda row: row["job_id"]):
        attempts = list(group)
        last = attempts[-1]
        found.append(
            PastJob(
                job_id=job_id,
                team=last["team"],
                user=last["created_by"],
                queued_at=last["queued_at"].timestamp(),
                kind=last["kind"],
                reserved_bytes=last["reserved_bytes"],
                replicas=1 + len(last["more_devices"] or ()),
                run_seconds=sum((each["ended_at"] - each["started_at"]).total_seconds() for each in attempts),
                device_type=last["device_type"],
                priority=last["priority"],
            )
        )
    return found
