"""The scheduler's decision, held between passes so that a small change costs a small pass."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from orchestrator.domain.scheduling.actions import Decision, Wait
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.demand import Demand, find_demand
from orchestrator.domain.scheduling.facts import Lock, Pin, QueuedJob, Rules, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.hints import Hint, find_hints
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy, get_policy
from orchestrator.domain.scheduling.queue import queue_order
from orchestrator.domain.scheduling.round import Round
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.waiting import explain_wait


class Planner:
    """Facts go in by `set_`, `put_` and `drop_`; `decide` reads them and changes nothing.

    The caller applies a decision: a start by `drop_queued` and `put_running`, a preemption by `put_running` of the job
    as stopping, pins and locks by `set_pins` and `set_locks`. After any history of changes the decision is the one that
    a new planner with the same facts would make.
    """

    def __init__(self, rules: Rules | None = None, policy: PlacementPolicy | None = None) -> None:
        self.rules = rules or Rules()
        self._policy = policy or get_policy(self.rules.placement)
        self._state = State(self.rules)

    def set_devices(self, devices: Iterable[SharedDevice]) -> None:
        """The whole pool. What is as before costs nothing but the comparison."""
        self._state.set_devices(devices)

    def set_teams(self, terms: Iterable[TeamTerms]) -> None:
        """Terms of teams, all or only those that changed. A job of an unknown team is without a guarantee."""
        for team in terms:
            self._state.set_team(team)

    def put_queued(self, job: QueuedJob) -> None:
        """A job that waits, new or changed."""
        self._state.put_queued(job)

    def drop_queued(self, job_id: str) -> None:
        """A job that waits no longer. Unknown ones are no error."""
        self._state.drop_queued(job_id)

    def put_running(self, job: RunningJob) -> None:
        """A job that has devices, new or changed."""
        self._state.put_running(job)

    def drop_running(self, job_id: str) -> None:
        """A job that has given its devices back. Unknown ones are no error."""
        self._state.drop_running(job_id)

    def set_locks(self, locks: Iterable[Lock]) -> None:
        """All locks, as the last decision named them."""
        self._state.set_locks(locks)

    def set_pins(self, pins: Iterable[Pin]) -> None:
        """All pins, as the last decision named them."""
        self._state.set_pins(pins)

    def queued_jobs(self) -> list[QueuedJob]:
        """Every job that waits."""
        return [waiting.job for waiting in self._state.waiting.values()]

    def has_queued(self, job_id: str) -> bool:
        """Whether the job is known to wait."""
        return job_id in self._state.waiting

    def explain(self, job_id: str, now: float) -> Wait | None:
        """The one top reason why the job waits; None for a job that starts now. Raises KeyError for an unknown job."""
        return self.explain_all([job_id], now)[job_id]

    def explain_all(self, job_ids: Iterable[str], now: float) -> dict[str, Wait | None]:
        """The same for several jobs, in one pass."""
        with self._pass(now) as found:
            jobs = [self._state.waiting[job_id] for job_id in job_ids]
            started = {start.job_id for start in found.starts}
            return {each.job.job_id: None if each.job.job_id in started else explain_wait(found, each) for each in jobs}

    def would_start_if(self, job_id: str, now: float) -> tuple[Hint, ...]:
        """What would let the job start. Raises KeyError for an unknown job."""
        with self._pass(now) as found:
            return find_hints(found, self._state.waiting[job_id])

    def demand(self, now: float, types: Collection[str] = ()) -> Demand:
        """The whole devices that waiting jobs would need now beyond what is or soon will be free; new ones only of
        these device types, if any are named."""
        with self._pass(now) as found:
            return find_demand(found, types)

    def order(self, now: float) -> list[str]:
        """The queue, first to last: the order in which jobs would start if there were room for all."""
        return [waiting.job.job_id for waiting in queue_order(self._state, now)]

    def front(self, now: float, most: int) -> list[str]:
        """The first jobs of the queue, as many as this."""
        return [waiting.job.job_id for waiting in islice(queue_order(self._state, now), most)]

    def position(self, job_id: str, now: float) -> int | None:
        """The job's place in the queue from 1 on; None for a job that is held, for later, or unknown."""
        for place, waiting in enumerate(queue_order(self._state, now), 1):
            if waiting.job.job_id == job_id:
                return place
        return None

    def decide(self, now: float) -> Decision:
        """One pass at this moment (POSIX seconds)."""
        with self._pass(now) as found:
            return found.decision()

    @contextmanager
    def _pass(self, now: float) -> Iterator[Pass]:
        one = Round(self._state, self._policy, now)
        try:
            one.run()
            yield one.found
        finally:
            one.close()
