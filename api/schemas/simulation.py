"""The pool's past as a workload."""

from collections.abc import Sequence
from typing import Literal

from api.schemas.wire import Wire
from orchestrator.simulation.history import PastJob


class PastJobOut(Wire):
    """A job that ran. `queued_at` is POSIX seconds; `run_seconds` is all the time that it had devices."""

    job_id: str
    team: str
    user: str
    queued_at: float
    kind: str
    reserved_bytes: int
    run_seconds: float
    device_type: str
    told_seconds: float | None
    replicas: int
    priority: int
    priority_class: str

    @classmethod
    def of(cls, job: PastJob) -> "PastJobOut":
        return cls(
            job_id=job.job_id,
            team=job.team,
            user=job.user,
            queued_at=job.queued_at,
            kind=job.kind,
            reserved_bytes=job.reserved_bytes,
            run_seconds=job.run_seconds,
            device_type=job.device_type,
            told_seconds=job.told_seconds,
            replicas=job.replicas,
            priority=job.priority,
            priority_class=job.priority_class,
        )


class HistoryOut(Wire):
    """By the moment of queueing, the oldest first."""

    object: Literal["simulation.history"]
    data: list[PastJobOut]

    @classmethod
    def of(cls, past: Sequence[PastJob]) -> "HistoryOut":
        return cls(object="simulation.history", data=[PastJobOut.of(job) for job in past])
