"""What a simulation leaves behind: one record per job, with an interval for each time that it ran."""

from dataclasses import dataclass, field

from orchestrator.domain.scheduling.actions import PreemptionRule


@dataclass(kw_only=True, slots=True)
class Interval:
    """One attempt: from the moment it had its devices to the moment it gave them back."""

    started_at: float
    ended_at: float | None
    rate_micros: int
    device_ids: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class JobRecord:
    """`lost_seconds` were run twice or spent on coming back. `asked_at` are the moments at which it was asked to
    leave."""

    job_id: str
    team_id: str
    replicas: int
    arrived_at: float
    needs_micros: int
    intervals: list[Interval] = field(default_factory=list)
    ended_at: float | None = None
    preemptions: list[PreemptionRule] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    lost_seconds: float = 0.0
    lost_device_seconds: float = 0.0

    @property
    def ran_seconds(self) -> float:
        return sum((each.ended_at or each.started_at) - each.started_at for each in self.intervals)

    @property
    def wait_seconds(self) -> float:
        """All the time in which it had no devices though it wanted them. Raises ValueError before its end."""
        if self.ended_at is None:
            raise ValueError(f"{self.job_id} has not ended")
        return max(self.ended_at - self.arrived_at - self.ran_seconds, 0.0)

    @property
    def completion_seconds(self) -> float:
        """From arrival to end. Raises ValueError before its end."""
        if self.ended_at is None:
            raise ValueError(f"{self.job_id} has not ended")
        return self.ended_at - self.arrived_at


@dataclass(kw_only=True, slots=True)
class Records:
    """`passes` is how often the scheduler was asked. Jobs that never ran to their end are among `jobs` too."""

    jobs: dict[str, JobRecord] = field(default_factory=dict)
    passes: int = 0
    decision_seconds: float = 0.0
    ended_at: float = 0.0

    def done(self) -> list[JobRecord]:
        """The jobs that ran to their end, by arrival."""
        return sorted(
            (job for job in self.jobs.values() if job.ended_at is not None),
            key=lambda job: (job.arrived_at, job.job_id),
        )
