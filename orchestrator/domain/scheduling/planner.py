"""The scheduler's decision, held between passes so that a small change costs a small pass."""

from collections.abc import Iterable

from orchestrator.domain.scheduling.actions import Decision
from orchestrator.domain.scheduling.facts import Lock, Pin, QueuedJob, Rules, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy, get_policy
from orchestrator.domain.scheduling.round import Round
from orchestrator.domain.scheduling.state import State


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

    def decide(self, now: float) -> Decision:
        """One pass at this moment (POSIX seconds)."""
        found = Round(self._state, self._policy, now)
        try:
            found.run()
            return found.decision()
        finally:
            found.close()
