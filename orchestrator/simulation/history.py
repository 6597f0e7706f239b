"""The pool's own past as a workload: what jobs asked for, when, and how long they really ran."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob
from orchestrator.simulation.openb import TraceError
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob


@dataclass(frozen=True, kw_only=True, slots=True)
class PastJob:
    """One job that ran. `queued_at` is POSIX seconds; `run_seconds` is all the time that it had devices, on
    `device_type`. `told_seconds` is what was estimated, None if nothing was."""

    job_id: str
    team: str
    user: str
    queued_at: float
    kind: str
    reserved_bytes: int
    run_seconds: float
    device_type: str
    told_seconds: float | None = None
    replicas: int = 1
    priority: int = 0
    priority_class: str = "normal"


def as_workload(past: Iterable[PastJob]) -> tuple[SimulatedJob, ...]:
    """The jobs, to be submitted again. A duration is taken to be the same on every type of device: only one was
    seen."""
    return tuple(_as_simulated(job) for job in past)


def _as_simulated(job: PastJob) -> SimulatedJob:
    told = job.told_seconds if job.told_seconds is not None else job.run_seconds
    queued = QueuedJob(
        job_id=job.job_id,
        team_id=job.team,
        user_id=job.user,
        priority_class=PriorityClass(job.priority_class),
        priority=job.priority,
        queued_at=job.queued_at,
        replicas=job.replicas,
        footprints=(
            Footprint(
                name="as it ran",
                bytes_by_kind={job.kind: job.reserved_bytes},
                seconds_by_type={ANY_TYPE: max(told, 1.0)},
            ),
        ),
    )
    return SimulatedJob(queued=queued, seconds_by_type={ANY_TYPE: max(job.run_seconds, 1.0)})


def parse_past(rows: Iterable[Mapping[str, Any]]) -> list[PastJob]:
    """From JSON rows with the names of PastJob's fields. Raises TraceError."""
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(PastJob(**row))
        except TypeError as error:
            raise TraceError(f"row {number} of the history: {error}") from error
    return sorted(found, key=lambda job: (job.queued_at, job.job_id))
