"""What would have been: one workload on several pools, and the figures side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.metrics import percentile
from orchestrator.simulation.pool_files import PoolFile
from orchestrator.simulation.records import JobRecord, Records
from orchestrator.simulation.shares import hours
from orchestrator.simulation.workload import SimulatedJob

_MOST_HOURS = 24 * 366


@dataclass(frozen=True, kw_only=True, slots=True)
class TeamOutcome:
    """Of one team: its jobs that ran to the end, and what they waited in all, in hours."""

    team: str
    jobs: int
    mean_wait_hours: float
    p95_wait_hours: float
    worst_wait_hours: float
    device_hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One pool's figures. `waiting_by_hour` is the mean number of jobs that wait, from the first arrival on;
    `impossible` are jobs that no device of the pool could ever hold."""

    name: str
    all: TeamOutcome
    teams: tuple[TeamOutcome, ...]
    preemptions: int
    lost_device_hours: float
    used_percent: float
    impossible: int
    unfinished: int
    waiting_by_hour: tuple[float, ...] = field(default=())


def simulate(name: str, pool: PoolFile, jobs: Sequence[SimulatedJob]) -> Outcome:
    """Run the jobs on the pool to the end of the last."""
    possible = [job for job in jobs if _is_possible(job, pool)]
    starts_at = min((job.queued.queued_at for job in possible), default=0.0)
    simulation = Simulation(
        Planner(pool.rules),
        pool.devices,
        pool.teams,
        timing=pool.timing,
        half_life_seconds=pool.rules.half_life_seconds,
        starts_at=starts_at,
    )
    simulation.add(possible)
    records = simulation.run(until=starts_at + _MOST_HOURS * 3600)
    done = records.done()
    used = sum(sum(hour.had.values()) for hour in hours(records).values())
    weight = sum(device.weight_micros for device in pool.devices) / 1e6
    team_ids = sorted({job.team_id for job in done})
    length = max(records.ended_at - starts_at, 1.0)
    return Outcome(
        name=name,
        all=_outcome("all", done),
        teams=tuple(_outcome(team, [j for j in done if j.team_id == team]) for team in team_ids),
        preemptions=sum(len(job.preemptions) for job in records.jobs.values()),
        lost_device_hours=sum(job.lost_device_seconds for job in records.jobs.values()) / 3600,
        used_percent=100 * used / max(weight * length, 1e-9),
        impossible=len(jobs) - len(possible),
        unfinished=len(records.jobs) - len(done),
        waiting_by_hour=_waiting(records, starts_at),
    )


def _is_possible(job: SimulatedJob, pool: PoolFile) -> bool:
    """Whether the empty pool has the devices, on one node where that is asked for."""
    by_place: dict[tuple[str, str], int] = {}
    for device in pool.devices:
        needed = min((f.bytes_by_kind.get(device.kind, 1 << 62) for f in job.queued.footprints), default=1 << 62)
        if needed <= device.usable_bytes:
            place = (device.device_type, device.node_name if job.queued.same_node else "")
            by_place[place] = by_place.get(place, 0) + 1
    return max(by_place.values(), default=0) >= job.queued.replicas


def _outcome(team: str, done: Sequence[JobRecord]) -> TeamOutcome:
    waits = [job.wait_seconds / 3600 for job in done]
    return TeamOutcome(
        team=team,
        jobs=len(done),
        mean_wait_hours=sum(waits) / len(waits) if waits else 0.0,
        p95_wait_hours=percentile(waits, 0.95),
        worst_wait_hours=max(waits, default=0.0),
        device_hours=sum(
            each.rate_micros / 1e6 * ((each.ended_at or each.started_at) - each.started_at) / 3600
            for job in done
            for each in job.intervals
        ),
    )


def _waiting(records: Records, starts_at: float) -> tuple[float, ...]:
    count = int((records.ended_at - starts_at) // 3600) + 1
    seconds = [0.0] * count
    for job in records.jobs.values():
        at = job.arrived_at
        for each in job.intervals:
            _add(seconds, at - starts_at, each.started_at - starts_at)
            at = each.ended_at if each.ended_at is not None else records.ended_at
        if job.ended_at is None and not job.intervals:
            _add(seconds, at - starts_at, records.ended_at - starts_at)
    return tuple(each / 3600 for each in seconds)


def _add(seconds: list[float], begins: float, ends: float) -> None:
    at = int(begins // 3600)
    while at < len(seconds) and at * 3600 < ends:
        seconds[at] += max(0.0, min(ends, (at + 1) * 3600) - max(begins, at * 3600))
        at += 1
