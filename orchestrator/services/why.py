"""Why a job waits, until when, and what would let it start: asked of the same decision that places jobs."""

import threading
from dataclasses import dataclass

from orchestrator.domain.errors import IllegalTransitionError
from orchestrator.domain.jobs import Job
from orchestrator.domain.scheduling.actions import Wait
from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.scheduling.hints import Hint
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller
from orchestrator.store import jobs
from orchestrator.store.queueing import Queueing
from orchestrator.store.session import Store


@dataclass(frozen=True, kw_only=True)
class Why:
    """`wait` is None for a job that the next pass starts. `position` counts from 1 over all teams, None for a job that
    is held back; `of` is how many wait. Moments are POSIX seconds."""

    job: Job
    wait: Wait | None
    position: int | None
    of: int
    hints: tuple[Hint, ...]


class WhyReader:
    """Keeps a planner of its own between questions, so that a long queue is read once."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._queueing = Queueing(rules)

    def explain(self, caller: Caller, job_id: str) -> Why:
        """Raises NotFoundError, and IllegalTransitionError for a job that does not wait."""
        with self._lock, self._store.read() as tx:
            job = jobs.get_job(tx, job_id, caller.visible_team_id)
            if job.state is not JobState.QUEUED:
                raise IllegalTransitionError(f"The job is {job.state.value}; it does not wait for a device.")
            try:
                self._queueing.hurry()
                facts = self._queueing.refresh(tx)
                while not self._queueing.is_complete:
                    facts = self._queueing.refresh(tx)
            except Exception:
                self._queueing.forget()
                raise
            assert facts is not None, "a hurried refresh reads"
            planner = self._queueing.planner
            return Why(
                job=job,
                wait=planner.explain(job_id, facts.now),
                position=planner.position(job_id, facts.now),
                of=len(self._queueing.waiting),
                hints=planner.would_start_if(job_id, facts.now),
            )
