"""Jobs: submitted, shown, stopped. A job is accepted when its row is committed, and never forgotten after that."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.domain.artifacts import Adapter, Checkpoint, File, FilePurpose, FileStatus
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import (
    CannotFitError,
    ForbiddenError,
    IllegalTransitionError,
    InvalidRequestError,
)
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate
from orchestrator.domain.estimate_changes import describe_misfit
from orchestrator.domain.ids import new_job_id
from orchestrator.domain.jobs import Event, Job, LogRecord, MetricRecord
from orchestrator.domain.pages import Page
from orchestrator.domain.placement import DeviceRoom, WaitingJob, could_ever_fit
from orchestrator.domain.plan import SEQ_MULTIPLE_TOKENS, TrainingPlan, resolve_plan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.queries import ALL_JOBS, ALL_LINES, JobQuery, LineQuery
from orchestrator.domain.sizer import (
    ClosedFormSizer,
    Gauge,
    Sizer,
    footprints_of,
    glance_at_kinds,
    measure_kinds,
)
from orchestrator.domain.spec import AUTO, JobSpec
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.services import idempotency
from orchestrator.services.costs import Bill, read_bill, running_usd_micros
from orchestrator.services.idempotency import Repeat
from orchestrator.services.parents import ResolveModel, hold_parent, resolve_model
from orchestrator.services.pool import DeviceView
from orchestrator.services.teams import find_named_team, require_member
from orchestrator.store import (
    adapters,
    attempts,
    checkpoints,
    devices,
    events,
    files,
    jobs,
    ledger,
    logs,
    metrics,
    teams,
)
from orchestrator.store.jobs import JobFilter, NewJob
from orchestrator.store.session import ReadTx, Store, WriteTx

SCOPE = "POST /v1/fine_tuning/jobs"
_NEVER = datetime(1, 1, 1, tzinfo=UTC)
HOLDS_NOTHING = frozenset({JobState.VALIDATING_FILES, JobState.QUEUED, JobState.PAUSED})
"""States in which a job has no attempt, so that it can be moved at once."""


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
    """`min_rows` is the least number of training rows that a job takes."""

    store: Store
    models: ResolveModel
    min_rows: int = 1
    sizer: Sizer = field(default_factory=ClosedFormSizer)

    def create(self, caller: Caller, spec: JobSpec, *, repeat: Repeat, team: str | None = None) -> Job:
        """Accept a job. The same request again gives the first one's job (see `services.idempotency`).

        Raises InvalidRequestError, naming the field, for what can be known to be wrong before the files are tokenized,
        and CannotFitError for what no device of the pool could hold.
        """
        require_member(caller)
        if (first := self._find_first(caller, repeat)) is not None:
            return first
        spec, model, parent = resolve_model(self.store, self.models, spec, self._find_team_id(caller, team))
        seed = secrets.randbelow(2**31) if spec.seed is None else spec.seed
        if not model.facts.has_chat_template:
            raise InvalidRequestError(
                f"{model.name} has no chat template, so chat rows cannot be rendered for it; choose an instruct model",
                code="no_chat_template",
                param="model",
            )
        plan = resolve_plan(spec, model.facts, seed=seed)
        self._require_fit(spec, _smallest(spec, plan), model)
        job_id = new_job_id()
        with self.store.write() as tx:
            first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=job_id)
            if first_id is not None:
                return jobs.get_job(tx, first_id, caller.visible_team_id)
            team_id = _choose_team(tx, caller, team)
            self._lock_files(tx, team_id, spec)
            if parent is not None:
                hold_parent(tx, parent)
            new = NewJob(
                job_id=job_id,
                team_id=team_id,
                created_by=caller.key_id,
                spec=spec,
                seed=seed,
                model_name=model.name,
                model_revision=model.revision,
                parent=parent,
            )
            start = f"The job is created and will continue from {parent.name}" if parent else "The job is created"
            return jobs.insert_job(tx, new, message=f"{start}; its files are checked against {model.name}.")

    def _find_first(self, caller: Caller, repeat: Repeat) -> Job | None:
        """A repeat is answered from the first one's job alone: its model may be gone by now, or slow to ask for."""
        if not repeat.may_be_one:
            return None
        with self.store.read() as tx:
            job_id = idempotency.find_first(tx, caller, scope=SCOPE, repeat=repeat)
            return None if job_id is None else jobs.get_job(tx, job_id, caller.visible_team_id)

    def _find_team_id(self, caller: Caller, team: str | None) -> str:
        if team is None:
            return caller.team_id
        with self.store.read() as tx:
            return _choose_team(tx, caller, team)

    def _require_fit(self, spec: JobSpec, plan: TrainingPlan, model: BaseModel) -> None:
        """Raises CannotFitError, with the nearest changes that would do, when no device could hold the job even empty.

        A pool that has shown no device yet refuses nothing. What fits at a glance is not looked at twice: validation
        measures every job. Only before a job is refused is a trace waited for, so no transaction is open.
        """
        with self.store.read() as tx:
            rooms = [DeviceView(device=device, uses=()).room for device in devices.list_devices(tx)]
        candidates = _choose_candidates(spec, rooms)
        present = {room.kind for room in candidates}
        glanced = glance_at_kinds(plan, model, sizer=self.sizer, kinds=present)
        if not candidates or could_ever_fit(candidates, _ask(spec, glanced)):
            return
        sizer = self.sizer.session()
        measured = measure_kinds(plan, model, sizer=sizer, present=present)
        if not could_ever_fit(candidates, _ask(spec, measured)):
            text = describe_misfit(plan, candidates, lambda kind: Gauge(sizer=sizer, model=model, kind=kind))
            raise CannotFitError(text, param="resources")

    def _lock_files(self, tx: WriteTx, team_id: str, spec: JobSpec) -> None:
        """Hold the job's files against deletion. Raises InvalidRequestError, naming the field, for one that is not
        there, not the team's, or of no use."""
        wanted = {"training_file": spec.training_file, "validation_file": spec.validation_file}
        asked = {param: file_id for param, file_id in wanted.items() if file_id is not None}
        found = files.lock_files(tx, asked.values(), team_id)
        for param, file_id in asked.items():
            file = found.get(file_id)
            if file is None:
                raise InvalidRequestError(f"{param}: there is no file {file_id}", code="file_not_found", param=param)
            _require_usable(file, param)
            rows = int((file.report or {}).get("rows", 0))
            if param == "training_file" and rows < self.min_rows:
                raise InvalidRequestError(
                    f"{param} has {rows} rows; at least {self.min_rows} are needed",
                    code="too_few_examples",
                    param=param,
                )

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
            return jobs.list_jobs(tx, wanted, which=which, limit=limit, after=after)

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
            job = _get_own(tx, caller, job_id)
            if job.state is JobState.CANCELLED:
                return job
            if job.state in FINAL_JOB_STATES:
                raise IllegalTransitionError(f"The job has {job.state.value} already; it cannot be cancelled.")
            known = job.cancel_requested_at is not None
            job = jobs.request_cancel(tx, job_id)
            if job.state in HOLDS_NOTHING:
                return jobs.apply_job_transition(tx, job_id, JobState.CANCELLED, message="The job is cancelled.")
            if not known:
                jobs.record_progress(tx, job_id, phase="cancelling")
                events.append_event(tx, job_id, message="Cancel was asked for; the job stops after its current step.")
            return jobs.get_job(tx, job_id)

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
            if job.state in HOLDS_NOTHING:
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


def _smallest(spec: JobSpec, plan: TrainingPlan) -> TrainingPlan:
    """The plan that this one may become: an 'auto' length is decided by rows that nobody has counted yet."""
    if spec.training.max_seq_length != AUTO:
        return plan
    return plan.model_copy(update={"max_seq_tokens": SEQ_MULTIPLE_TOKENS})


def _choose_team(tx: ReadTx, caller: Caller, team: str | None) -> str:
    if team is None or team in {caller.team_id, caller.team_name}:
        return caller.team_id
    if caller.role is not Role.ADMIN:
        raise ForbiddenError(f"this key belongs to team {caller.team_name!r}; only an admin submits for another team")
    return find_named_team(tx, team).team_id


def _get_own(tx: ReadTx, caller: Caller, job_id: str) -> Job:
    """A job that the caller may change."""
    job = jobs.get_job(tx, job_id, caller.visible_team_id)
    require_member(caller)
    return job


def _require_usable(file: File, param: str) -> None:
    if file.purpose is not FilePurpose.FINE_TUNE:
        raise InvalidRequestError(
            f"{param}: {file.file_id} has purpose {file.purpose.value}; upload it with purpose fine-tune",
            code="wrong_file_purpose",
            param=param,
        )
    if file.status is FileStatus.ERROR:
        raise InvalidRequestError(
            f"{param}: {file.file_id} ({file.filename}) is not valid: {file.status_details}",
            code=f"invalid_{param}",
            param=param,
        )


def _choose_candidates(spec: JobSpec, rooms: Sequence[DeviceRoom]) -> list[DeviceRoom]:
    """The devices that the job may use. Raises InvalidRequestError when the pool has others only."""
    asked = spec.resources.device_type
    candidates = [room for room in rooms if asked in {AUTO, room.device_type}]
    if rooms and not candidates:
        kinds = ", ".join(sorted({room.device_type for room in rooms}))
        raise InvalidRequestError(
            f"the pool has no device of type {asked!r}; it has {kinds}", param="resources.device_type"
        )
    return candidates


def _ask(spec: JobSpec, memory: Mapping[DeviceKind, MemoryEstimate]) -> WaitingJob:
    return WaitingJob(
        job_id="",
        priority=spec.priority,
        queued_at=_NEVER,
        bytes_by_kind=footprints_of(memory),
        device_type=None,
        exclusive=spec.resources.exclusive,
    )
