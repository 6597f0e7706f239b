"""Jobs: submitted, shown, stopped. A job is accepted when its row is committed, and never forgotten after that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.artifacts import Adapter, Checkpoint
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import IllegalTransitionError
from orchestrator.domain.ids import new_job_id
from orchestrator.domain.jobs import Event, Job, LogRecord, MetricRecord
from orchestrator.domain.pages import Page
from orchestrator.domain.queries import ALL_JOBS, ALL_LINES, JobQuery, LineQuery
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import FINAL_JOB_STATES, IDLE_JOB_STATES, JobState
from orchestrator.domain.teams import Caller
from orchestrator.services import idempotency
from orchestrator.services.costs import Bill, read_bill, running_usd_micros
from orchestrator.services.idempotency import Repeat
from orchestrator.services.submissions import Submissions, choose_team
from orchestrator.services.teams import require_member
from orchestrator.store import adapters, attempts, checkpoints, events, jobs, ledger, logs, metrics, teams
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import ReadTx, Store, WriteTx

SCOPE = "POST /v1/fine_tuning/jobs"


@dataclass(frozen=True, kw_only=True)
class JobExtras:
    """What is shown with a job and lives in other tables. Sums are micro-dollars; `attempt` is the newest."""

    team_name: str
    billed_usd_micros: int
    lost_usd_micros: int
    adapter: Adapter | None
    attempt: Attempt | None


@dataclass(frozen=True)
class Jobs:
    store: Store
    submissions: Submissions

    def create(self, caller: Caller, spec: JobSpec, *, repeat: Repeat, team: str | None = None) -> Job:
        """Accept a job. The same request again gives the first one's job (see `services.idempotency`).

        Raises InvalidRequestError, naming the field, for what can be known to be wrong before the files are tokenized,
        and CannotFitError for what no device of the pool could hold.
        """
        require_member(caller)
        if (first := self._find_first(caller, repeat)) is not None:
            return first
        prepared = self.submissions.prepare(caller, spec, team=team)
        job_id = new_job_id()
        with self.store.write() as tx:
            first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=job_id)
            if first_id is not None:
                return jobs.get_job(tx, first_id, caller.visible_team_id)
            team_id = choose_team(tx, caller, team)
            return self.submissions.insert(tx, caller, prepared, job_id=job_id, team_id=team_id)

    def _find_first(self, caller: Caller, repeat: Repeat) -> Job | None:
        """A repeat is answered from the first one's job alone: its model may be gone by now, or slow to ask for."""
        if not repeat.may_be_one:
            return None
        with self.store.read() as tx:
            job_id = idempotency.find_first(tx, caller, scope=SCOPE, repeat=repeat)
            return None if job_id is None else jobs.get_job(tx, job_id, caller.visible_team_id)

    def get(self, caller: Caller, job_id: str) -> Job:
        with self.store.read() as tx:
            return jobs.get_job(tx, job_id, caller.visible_team_id)

    def list(
        self,
        caller: Caller,
        *,
        metadata: Mapping[str, str] | None = None,
        metadata_is_null: bool = False,
        which: JobQuery = ALL_JOBS,
        limit: int = 20,
        after: str | None = None,
    ) -> Page[Job]:
        """Newest first, unless `which` says otherwise."""
        wanted = JobFilter(team_id=caller.visible_team_id, metadata=metadata, metadata_is_null=metadata_is_null)
        with self.store.read() as tx:
            return list_jobs(tx, wanted, which=which, limit=limit, after=after)

    def count(self, caller: Caller) -> dict[JobState, int]:
        """How many jobs the caller sees in each state; a state without jobs is absent."""
        with self.store.read() as tx:
            return jobs.count_by_state(tx, caller.visible_team_id)

    def describe(self, caller: Caller, found: Sequence[Job]) -> dict[str, JobExtras]:
        """What is shown with jobs that the caller was given, by job id. New jobs of one's own need no look-up."""
        tried = {job.job_id for job in found if job.attempts}
        if not tried and all(job.team_id == caller.team_id for job in found):
            return {job.job_id: _without_attempts(caller.team_name) for job in found}
        with self.store.read() as tx:
            now = tx.now()
            names = {team.team_id: team.name for team in teams.list_teams(tx)}
            sums = ledger.sum_by_job(tx, tried)
            published = adapters.list_adapters_of(tx, tried)
            newest = attempts.list_newest_of(tx, tried)
        return {
            job.job_id: JobExtras(
                team_name=names[job.team_id],
                billed_usd_micros=sums.get(job.job_id, (0, 0))[0]
                + (running_usd_micros(newest[job.job_id], now) if job.job_id in newest else 0),
                lost_usd_micros=sums.get(job.job_id, (0, 0))[1],
                adapter=published.get(job.job_id),
                attempt=newest.get(job.job_id),
            )
            for job in found
        }

    def cancel(self, caller: Caller, job_id: str) -> Job:
        """Final: once this returns, the job can end in nothing but cancelled, unless it had succeeded before.

        Safe to repeat. Raises IllegalTransitionError when the job ended otherwise.
        """
        with self.store.write() as tx:
            return cancel_job(tx, _get_own(tx, caller, job_id))

    def pause(self, caller: Caller, job_id: str) -> Job:
        """Stop with a checkpoint, hold nothing, cost nothing. Safe to repeat."""
        with self.store.write() as tx:
            job = _get_own(tx, caller, job_id)
            if job.state in {JobState.PAUSED, JobState.PAUSING}:
                return job
            if job.state in FINAL_JOB_STATES or job.cancel_requested_at is not None:
                ending = job.state.value if job.state in FINAL_JOB_STATES else "being cancelled"
                raise IllegalTransitionError(f"The job is {ending}; it cannot be paused.")
            job = jobs.request_pause(tx, job_id)
            if job.state in IDLE_JOB_STATES:
                return jobs.apply_job_transition(tx, job_id, JobState.PAUSED, message="The job is paused.")
            return jobs.apply_job_transition(
                tx, job_id, JobState.PAUSING, message="Pause was asked for; the job saves a checkpoint and stops."
            )

    def resume(self, caller: Caller, job_id: str) -> Job:
        """Queue a paused job again; it goes on from its last checkpoint. A job that is not paused stays as it is."""
        with self.store.write() as tx:
            job = _get_own(tx, caller, job_id)
            if job.state is JobState.PAUSING:
                raise IllegalTransitionError("The job is still saving its checkpoint; resume it once it is paused.")
            if job.state in FINAL_JOB_STATES:
                raise IllegalTransitionError(f"The job is {job.state.value}; it cannot be resumed.")
            if job.state is not JobState.PAUSED:
                return job
            if job.plan is None:
                message = "The job is resumed; its files are checked first."
                return jobs.apply_job_transition(tx, job_id, JobState.VALIDATING_FILES, message=message)
            where = f" from step {job.current_step}" if job.current_step else ""
            message = f"The job is resumed and queued; it goes on{where}."
            return jobs.apply_job_transition(tx, job_id, JobState.QUEUED, message=message)

    def events(
        self, caller: Caller, job_id: str, *, limit: int = 20, after: str | None = None, descending: bool = True
    ) -> Page[Event]:
        with self.store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            return events.list_events(tx, job_id, limit=limit, after=after, descending=descending)

    def event_cursor(self, caller: Caller, job_id: str, event_id: str) -> int:
        """Where a stream goes on that ended with this event. Raises NotFoundError when it is not this job's."""
        with self.store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            return events.get_event_seq(tx, job_id, event_id)

    def checkpoints(
        self, caller: Caller, job_id: str, *, limit: int = 10, after: str | None = None
    ) -> Page[Checkpoint]:
        """Complete ones, newest first."""
        with self.store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            return checkpoints.list_checkpoints(tx, job_id, limit=limit, after=after)

    def attempts(self, caller: Caller, job_id: str) -> tuple[Attempt, ...]:
        """In the order of their numbers."""
        with self.store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            return tuple(attempts.list_attempts(tx, job_id))

    def logs(
        self,
        caller: Caller,
        job_id: str,
        *,
        after: int = 0,
        limit: int = 100,
        which: LineQuery = ALL_LINES,
    ) -> Page[LogRecord]:
        """Oldest first, unless `which` says otherwise; `after` is a log_id, 0 for none."""
        with self.store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            found = logs.list_logs(tx, job_id, after_id=after, limit=limit + 1, which=which)
        return Page(items=tuple(found[:limit]), has_more=len(found) > limit)

    def metrics(self, caller: Caller, job_id: str, *, after: int = 0, limit: int = 100) -> Page[MetricRecord]:
        """Oldest first; `after` is a metric_id."""
        with self.store.read() as tx:
            jobs.get_job(tx, job_id, caller.visible_team_id)
            found = metrics.list_metrics(tx, job_id, after, limit + 1)
        return Page(items=tuple(found[:limit]), has_more=len(found) > limit)

    def bill(self, caller: Caller, job_id: str) -> Bill:
        with self.store.read() as tx:
            return read_bill(tx, jobs.get_job(tx, job_id, caller.visible_team_id))


def _without_attempts(team_name: str) -> JobExtras:
    return JobExtras(team_name=team_name, billed_usd_micros=0, lost_usd_micros=0, adapter=None, attempt=None)


def cancel_job(tx: WriteTx, job: Job) -> Job:
    """As `Jobs.cancel`, within a transaction."""
    if job.state is JobState.CANCELLED:
        return job
    if job.state in FINAL_JOB_STATES:
        raise IllegalTransitionError(f"The job has {job.state.value} already; it cannot be cancelled.")
    known = job.cancel_requested_at is not None
    job = jobs.request_cancel(tx, job.job_id)
    if job.state in IDLE_JOB_STATES:
        return jobs.apply_job_transition(tx, job.job_id, JobState.CANCELLED, message="The job is cancelled.")
    if not known:
        jobs.record_progress(tx, job.job_id, phase="cancelling")
        events.append_event(tx, job.job_id, message="Cancel was asked for; the job stops after its current step.")
    return jobs.get_job(tx, job.job_id)


def _get_own(tx: ReadTx, caller: Caller, job_id: str) -> Job:
    """A job that the caller may change."""
    job = jobs.get_job(tx, job_id, caller.visible_team_id)
    require_member(caller)
    return job
