"""When each waiting job will start: the same decision run forward on a virtual clock, with durations as estimated.

Others will come and some of them will go ahead, so a forecast without arrivals is too early. What came lately is taken
to come again (`repeat_arrivals`). The work is bounded: at most `most_passes` decisions, after which jobs that have not
started have no estimate.
"""

from collections.abc import Iterable
from dataclasses import replace

from orchestrator.domain.scheduling.decide import Jobs
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, Rules, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob, Timing

MOST_PASSES = 1_000
WINDOW_SECONDS = 12 * 3600.0
TIMES = 4
"""What came in the last half day is taken to come again, four times over."""

_LATE_SHARE = 0.1
_LATE_SECONDS = 60.0


def forecast_starts(
    pool: Iterable[SharedDevice],
    teams: Iterable[TeamTerms],
    jobs: Jobs,
    now: float,
    *,
    rules: Rules | None = None,
    arrivals: Iterable[QueuedJob] = (),
    most_passes: int = MOST_PASSES,
) -> dict[str, float]:
    """The expected moment of start (POSIX seconds) of each queued job that starts within the bound.

    `arrivals` are jobs that are expected to come, at their `queued_at`.
    """
    rules = rules or Rules()
    timing = Timing(checkpoint_seconds=float("inf"), tick_seconds=max(rules.pin_after_seconds, 60.0))
    simulation = Simulation(
        Planner(rules), pool, teams, timing=timing, half_life_seconds=rules.half_life_seconds, starts_at=now
    )
    for running in jobs.running:
        simulation.add_running(_remainder(running, now), running)
    queued = list(jobs.queued)
    for job in queued:
        simulation.add_waiting(SimulatedJob(queued=job))
    simulation.add(SimulatedJob(queued=job) for job in arrivals)
    simulation.take_over(jobs.locks, jobs.pins)
    records = simulation.run_until_started([job.job_id for job in queued], most_passes=most_passes)
    return {
        job.job_id: records.jobs[job.job_id].intervals[0].started_at
        for job in queued
        if records.jobs[job.job_id].intervals
    }


def repeat_arrivals(
    recent: Iterable[QueuedJob], now: float, *, window_seconds: float = WINDOW_SECONDS, times: int = TIMES
) -> list[QueuedJob]:
    """The jobs that came within the window before now, coming again at the same distance, so many times over."""
    came = [job for job in recent if now - window_seconds < job.queued_at <= now]
    return [
        replace(
            job,
            job_id=f"{job.job_id}+{number}",
            queued_at=job.queued_at + number * window_seconds,
            rank=None,
            preempted_at=(),
            attained_seconds=0.0,
        )
        for number in range(1, times + 1)
        for job in came
    ]


def _remainder(running: RunningJob, now: float) -> SimulatedJob:
    """The job as it is expected to go on. One that is late is expected to take a tenth of its time more."""
    left = running.expected_end_at - now
    if left <= 0:
        left = max(_LATE_SHARE * (now - running.started_at), _LATE_SECONDS)
    return SimulatedJob(queued=_as_queued(running, left), seconds_by_type={ANY_TYPE: left})


def _as_queued(running: RunningJob, left: float) -> QueuedJob:
    """The job as it would wait if it had to leave: it needs what it has."""
    return QueuedJob(
        job_id=running.job_id,
        team_id=running.team_id,
        user_id=running.user_id,
        priority_class=running.priority_class,
        queued_at=running.queued_at,
        footprints=(Footprint(name="", bytes_by_kind=_bytes(running), seconds_by_type={ANY_TYPE: left}),),
        priority=running.priority,
        replicas=len(running.holds),
        checkpointable=running.checkpointable,
        array_id=running.array_id,
        device_types=running.device_types,
        preempted_at=running.preempted_at,
        attained_seconds=running.attained_seconds,
    )


def _bytes(running: RunningJob) -> dict[str, int]:
    return dict.fromkeys(("cuda", "cpu"), max(hold.bytes for hold in running.holds))
