"""Why a job waits, until when, and what would let it start: asked of the same decision that places jobs.

So is when a job would start that nobody has submitted yet.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestrator.domain.errors import IllegalTransitionError
from orchestrator.domain.jobs import Job
from orchestrator.domain.scheduling.actions import Wait, WaitCode
from orchestrator.domain.scheduling.decide import Jobs
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, Rules
from orchestrator.domain.scheduling.hints import Hint
from orchestrator.domain.scheduling.views import AS_ASKED, view_queued
from orchestrator.domain.spec import AUTO, JobShape
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller
from orchestrator.simulation.forecast import WINDOW_SECONDS, forecast_starts, repeat_arrivals
from orchestrator.store import jobs, queue
from orchestrator.store.queueing import Queueing
from orchestrator.store.scheduling import PoolFacts
from orchestrator.store.session import ReadTx, Store

FORECAST = frozenset({WaitCode.PREEMPTING, WaitCode.PINNED, WaitCode.BEHIND, WaitCode.NO_ROOM})
"""Reasons that go away by themselves, as jobs end."""
MOST_FORECAST_JOBS = 2000
MOST_FORECAST_PASSES = 300
MOST_RECENT_JOBS = 500
"""Bounds on what one question may cost: some seconds of work at worst."""
MOST_FORETOLD_JOBS = 200
"""That wait, for jobs that are only thought of: a form asks while somebody types."""
IMAGINED = "ftjob-imagined"


@dataclass(frozen=True, kw_only=True)
class Why:
    """`wait` is None for a job that the next pass starts. `position` counts from 1 over all teams, None for a job that
    is held back; `of` is how many wait. `expected_start_at`, POSIX seconds, is None where nothing that is known lets
    the job start, or it is too far back to say."""

    job: Job
    wait: Wait | None
    position: int | None
    of: int
    hints: tuple[Hint, ...]
    expected_start_at: float | None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A job that nobody has submitted: what it reserves by kind of device, and what it takes by device type, in seconds
    and at most in micro-dollars."""

    shape: JobShape
    bytes_by_kind: Mapping[str, int]
    seconds_by_type: Mapping[str, float]
    costs_by_type: Mapping[str, int]


class WhyReader:
    """Keeps a planner of its own between questions, so that a long queue is read once."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._rules = rules
        self._queueing = Queueing(rules)

    def explain(self, caller: Caller, job_id: str) -> Why:
        """Raises NotFoundError, and IllegalTransitionError for a job that does not wait."""
        with self._lock:
            with self._store.read() as tx:
                job = jobs.get_job(tx, job_id, caller.visible_team_id)
                if job.state is not JobState.QUEUED:
                    raise IllegalTransitionError(f"The job is {job.state.value}; it does not wait for a device.")
                facts = self._read_facts(tx)
            planner = self._queueing.planner
            wait = planner.explain(job_id, facts.now)
            return Why(
                job=job,
                wait=wait,
                position=planner.position(job_id, facts.now),
                of=len(self._queueing.waiting),
                hints=planner.would_start_if(job_id, facts.now),
                expected_start_at=self._forecast(job_id, facts) if wait is None or wait.code in FORECAST else None,
            )

    def foretell(self, caller: Caller, candidate: Candidate) -> float | None:
        """When the candidate would start if the caller submitted it now, POSIX seconds. None where nothing that is
        known lets it start, or too many wait to say."""
        with self._lock:
            with self._store.read() as tx:
                facts = self._read_facts(tx)
            if len(self._queueing.waiting) > MOST_FORETOLD_JOBS:
                return None
            return self._forecast(IMAGINED, facts, also=[_imagine(caller, candidate, facts.now)])

    def _read_facts(self, tx: ReadTx) -> PoolFacts:
        try:
            while True:
                self._queueing.hurry()
                facts = self._queueing.refresh(tx)
                assert facts is not None, "a hurried refresh reads"
                if self._queueing.is_complete:
                    return facts
        except Exception:
            self._queueing.forget()
            raise

    def _forecast(self, job_id: str, facts: PoolFacts, also: Sequence[QueuedJob] = ()) -> float | None:
        """The same decision run forward, with times as predicted; None when the job is too far back to say."""
        queued = [*self._queueing.planner.queued_jobs(), *also]
        if len(queued) > MOST_FORECAST_JOBS:
            return None
        waiting = Jobs(queued=queued, running=facts.running, locks=facts.locks, pins=facts.pins)
        starts = forecast_starts(
            facts.devices,
            facts.teams,
            waiting,
            facts.now,
            rules=self._rules,
            arrivals=self._expect_arrivals(facts),
            most_passes=MOST_FORECAST_PASSES,
        )
        return starts.get(job_id)

    def _expect_arrivals(self, facts: PoolFacts) -> list[QueuedJob]:
        """What came lately, to come again: others will go ahead of the job that is asked about."""
        since = datetime.fromtimestamp(facts.now - WINDOW_SECONDS, UTC)
        with self._store.read() as tx:
            came = queue.list_came_since(tx, since, most=MOST_RECENT_JOBS)
        recent = [view_queued(replace(job, current_step=0), facts.market) for job in came if job.footprints]
        is_cut = len(came) == MOST_RECENT_JOBS and recent
        window = facts.now - recent[0].queued_at if is_cut else WINDOW_SECONDS
        return repeat_arrivals(recent, facts.now, window_seconds=window)


def _imagine(caller: Caller, candidate: Candidate, now: float) -> QueuedJob:
    """The candidate as if it had just been queued."""
    shape = candidate.shape
    wanted = shape.resources.device_type
    own = Footprint(
        name=AS_ASKED,
        bytes_by_kind=candidate.bytes_by_kind,
        seconds_by_type=candidate.seconds_by_type,
        cost_usd_micros=candidate.costs_by_type,
    )
    return QueuedJob(
        job_id=IMAGINED,
        team_id=caller.team_id,
        user_id=caller.key_id,
        priority_class=shape.priority_class,
        queued_at=now,
        footprints=(own,),
        priority=shape.priority,
        replicas=shape.resources.count,
        exclusive=shape.resources.exclusive,
        device_types=None if wanted == AUTO else frozenset({wanted}),
    )
