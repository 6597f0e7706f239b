"""The scheduler's decision as one pure function, for callers that hold all facts at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.domain.scheduling.actions import Decision
from orchestrator.domain.scheduling.facts import Lock, Pin, QueuedJob, Rules, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.planner import Planner


@dataclass(frozen=True, kw_only=True, slots=True)
class Jobs:
    """What waits, what runs, and what was promised earlier."""

    queued: Iterable[QueuedJob] = ()
    running: Iterable[RunningJob] = ()
    locks: Iterable[Lock] = ()
    pins: Iterable[Pin] = ()


def decide(
    pool: Iterable[SharedDevice],
    teams: Iterable[TeamTerms],
    jobs: Jobs,
    now: float,
    *,
    rules: Rules | None = None,
) -> Decision:
    """One pass from scratch: the same facts, in whatever order, give the same decision."""
    return build_planner(pool, teams, jobs, rules=rules).decide(now)


def build_planner(
    pool: Iterable[SharedDevice], teams: Iterable[TeamTerms], jobs: Jobs, *, rules: Rules | None = None
) -> Planner:
    """A planner that holds these facts."""
    planner = Planner(rules)
    planner.set_devices(pool)
    planner.set_teams(teams)
    for running in jobs.running:
        planner.put_running(running)
    for queued in jobs.queued:
        planner.put_queued(queued)
    planner.set_locks(jobs.locks)
    planner.set_pins(jobs.pins)
    return planner
