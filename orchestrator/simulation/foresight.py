"""How right forecasts are: the starts and ends of waiting jobs as foretold, against those that came."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.domain.scheduling.facts import QueuedJob, Rules, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.forecast import MOST_PASSES, forecast_starts, repeat_arrivals
from orchestrator.simulation.records import JobRecord
from orchestrator.simulation.workload import SimulatedJob, Timing

LEAST_WAIT_SECONDS = 60.0
"""Shorter waits are told as 'now' and not judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """One job's wait as foretold (None beyond the bound) and as it came, in seconds from the forecast; and in the same
    way what it is said to take once it runs, and when it ended."""

    job_id: str
    told_seconds: float | None
    came_seconds: float
    told_run_seconds: float
    ended_seconds: float

    def is_within(self, factor: float) -> bool:
        """Whether the told wait is between 1/factor and factor of the one that came."""
        if self.told_seconds is None:
            return False
        return self.came_seconds / factor <= max(self.told_seconds, LEAST_WAIT_SECONDS) <= self.came_seconds * factor

    def ends_within(self, factor: float) -> bool:
        """The same for the time until the job's end."""
        if self.told_seconds is None:
            return False
        told = self.told_seconds + self.told_run_seconds
        return self.ended_seconds / factor <= told <= self.ended_seconds * factor


def with_estimates(jobs: Sequence[SimulatedJob], *, error: float, seed: int) -> tuple[SimulatedJob, ...]:
    """The same jobs, with durations told within `error` of the truth (0.2 is 20 per cent), both ways."""
    source = random.Random(seed)
    found = []
    for job in jobs:
        assert job.seconds_by_type is not None
        told = {each: seconds * source.uniform(1 - error, 1 + error) for each, seconds in job.seconds_by_type.items()}
        footprints = tuple(replace(each, seconds_by_type=told) for each in job.queued.footprints)
        found.append(replace(job, queued=replace(job.queued, footprints=footprints)))
    return tuple(found)


def check_forecasts(
    devices: Sequence[SharedDevice],
    teams: Sequence[TeamTerms],
    jobs: Sequence[SimulatedJob],
    *,
    rules: Rules,
    every: int = 20,
    most_passes: int = MOST_PASSES,
) -> list[Foretold]:
    """Run the jobs; at each `every`-th arrival foretell the starts of all that wait. Only waits that came are
    judged."""
    simulation = Simulation(Planner(rules), devices, teams, timing=Timing(checkpoint_seconds=float("inf")))
    simulation.add(jobs)
    submitted = [job.queued for job in jobs]
    told: list[tuple[QueuedJob, float, float | None]] = []
    for job in sorted(jobs, key=lambda each: each.queued.queued_at)[::every]:
        simulation.run(until=job.queued.queued_at)
        pool, terms, facts = simulation.facts()
        waiting = [each for each in facts.queued if not each.attained_seconds]
        if waiting:
            at = job.queued.queued_at
            coming = repeat_arrivals(submitted, at)
            starts = forecast_starts(pool, terms, facts, at, rules=rules, arrivals=coming, most_passes=most_passes)
            told += [(each, at, starts.get(each.job_id)) for each in waiting]
    records = simulation.run()
    judged = [_judge(records.jobs[each.job_id], each, at, start) for each, at, start in told]
    return [each for each in judged if each.came_seconds >= LEAST_WAIT_SECONDS]


def _judge(record: JobRecord, job: QueuedJob, at: float, start: float | None) -> Foretold:
    """A start foretold at this moment against what came of the job, which has ended."""
    assert record.ended_at is not None
    return Foretold(
        job_id=job.job_id,
        told_seconds=None if start is None else start - at,
        came_seconds=record.intervals[0].started_at - at,
        told_run_seconds=max(job.footprints[0].seconds_by_type.values()),
        ended_seconds=record.ended_at - at,
    )
