"""Whether a job's files and settings fit its model: decided before any device is held.

Invariants: a job leaves validation with a plan without 'auto', its size on every kind of device, and an event that says
what was counted and predicted; or it fails with the field, and the line, at fault. A validator that crashes is tried
again a few times: its trouble may be the node's.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from orchestrator.domain.artifacts import File
from orchestrator.domain.errors import (
    CannotFitError,
    IllegalTransitionError,
    InvalidRequestError,
    NotFoundError,
    TunepoolError,
    UnavailableError,
)
from orchestrator.domain.failures import FAILURE_RULES, FailureKind
from orchestrator.domain.jobs import Alternative, Job, JobError
from orchestrator.domain.observations import name_kind
from orchestrator.domain.plan import TokenReport, TrainingPlan, resolve_plan
from orchestrator.domain.pool import BaseModel, speeds_of_types
from orchestrator.domain.protocol import FileProblem, TokenCounts, ValidationResult, ValidationSpec
from orchestrator.domain.spec import AUTO
from orchestrator.domain.states import JobState
from orchestrator.objects.client import Objects
from orchestrator.runtime.launcher import Launcher
from orchestrator.scheduler.alternatives import list_alternatives
from orchestrator.scheduler.knowledge import Knowledge
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.orders import remote_file
from orchestrator.scheduler.rooms import read_rooms
from orchestrator.scheduler.sentences import describe_usd
from orchestrator.scheduler.sizing import (
    Market,
    Sizing,
    describe_sizing,
    explain_misfit,
    find_home,
    gauge_job,
    size_job,
    snapshot,
    time_predictor,
)
from orchestrator.store import devices, events, files, jobs, models
from orchestrator.store.observations import read_calibration
from orchestrator.store.prices import read_price
from orchestrator.store.session import Store, WriteTx

PARALLEL_VALIDATIONS = 2
JOBS_PER_PASS = 50
CRASHES_FORGIVEN = 2
"""A validator that crashes more often on one job is taken to crash because of it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    job: Job
    model: BaseModel
    training_file: File
    validation_file: File | None


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    plan: TrainingPlan
    tokens: TokenReport
    sizing: Sizing
    alternatives: tuple[Alternative, ...]


class Validate:
    def __init__(
        self,
        store: Store,
        objects: Objects,
        launcher: Launcher,
        *,
        knowledge: Knowledge,
        cache_dir: str,
        input_url_seconds: int,
    ) -> None:
        self._store = store
        self._objects = objects
        self._launcher = launcher
        self._knowledge = knowledge
        self._cache_dir = cache_dir
        self._input_url_seconds = input_url_seconds
        self._lock = threading.Lock()
        self._crashes: dict[str, int] = {}

    def loop(self, *, interval_seconds: float) -> Loop[Sequence[Job], Job]:
        return Loop(
            name="validate",
            interval_seconds=interval_seconds,
            load=self.load,
            decide=lambda waiting: waiting,
            apply=self.apply,
            subject=lambda job: job.job_id,
            parallel=PARALLEL_VALIDATIONS,
            wakes=("place",),
        )

    def load(self) -> Sequence[Job]:
        with self._store.read() as tx:
            waiting = jobs.list_in_state(tx, [JobState.VALIDATING_FILES], JOBS_PER_PASS)
        return [job for job in waiting if job.cancel_requested_at is None]

    def apply(self, job: Job) -> None:
        try:
            subject = self._read_subject(job)
            verdict = self._judge(subject, self._validate(subject))
        except UnavailableError:
            raise
        except (InvalidRequestError, NotFoundError) as error:
            param = error.param or ("model" if "model" in error.code else None)
            self._fail(job, JobError(code=error.code, message=error.message, param=param))
        except TunepoolError as error:
            self._note_crash(job, error)
        else:
            self._admit(job, verdict)
        with self._lock:
            self._crashes.pop(job.job_id, None)

    def _read_subject(self, job: Job) -> _Subject:
        validation = job.spec.validation_file
        with self._store.read() as tx:
            return _Subject(
                job=job,
                model=models.get_model(tx, job.model_name),
                training_file=files.get_file(tx, job.spec.training_file, job.team_id),
                validation_file=files.get_file(tx, validation, job.team_id) if validation else None,
            )

    def _read_market(self, job: Job, plan: TrainingPlan, model: BaseModel) -> Market:
        """Devices, prices and what was learned, after the files were read: that may have taken minutes."""
        family = model.facts.model_type
        with self._store.read() as tx:
            rooms = read_rooms(tx)
            kinds = {
                device_type: name_kind(plan, base_model=job.model_name, family=family, device_type=device_type)
                for device_type in {room.device_type for room in rooms}
            }
            return Market(
                rooms=rooms,
                prices={device_type: read_price(tx, device_type) for device_type in kinds},
                speeds=speeds_of_types(devices.list_devices(tx)),
                calibrations={device_type: read_calibration(tx, kind) for device_type, kind in kinds.items()},
            )

    def _validate(self, subject: _Subject) -> ValidationResult:
        job, validation, seconds = subject.job, subject.validation_file, self._input_url_seconds
        longest = job.spec.training.max_seq_length
        spec = ValidationSpec(
            job_id=job.job_id,
            model=self._knowledge.describe_model(job),
            training_file=remote_file(self._objects, subject.training_file, "training.jsonl", seconds=seconds),
            validation_file=(
                remote_file(self._objects, validation, "validation.jsonl", seconds=seconds) if validation else None
            ),
            max_seq_tokens=None if longest == AUTO else longest,
            context_tokens=subject.model.facts.max_context_tokens,
            cache_dir=self._cache_dir,
            packing=job.spec.training.packing,
        )
        return self._launcher.validate(spec)

    def _judge(self, subject: _Subject, result: ValidationResult) -> _Verdict:
        """Raises InvalidRequestError for what the user has to change."""
        if result.problems:
            first = result.problems[0]
            param = "model" if first.code.startswith("model") else first.param
            raise InvalidRequestError(describe_problems(result.problems), code=first.code, param=param)
        if result.training is None:
            raise TunepoolError("The validator found no problem and counted nothing.")
        job, model = subject.job, subject.model
        tokens = _report_tokens(result.training, result.validation)
        plan = resolve_plan(job.spec, model.facts, seed=job.seed, tokens=tokens)
        market = self._read_market(job, plan, model)
        gauges = gauge_job(job, model, market=market, sizer=self._knowledge.sizer.session())
        validation = None if result.validation is None else TokenReport(**result.validation.model_dump())
        sizing = size_job(job, plan, model, tokens=tokens, validation=validation, market=market, gauges=gauges)
        alternatives: tuple[Alternative, ...] = ()
        if job.spec.resources.flexible:
            predict_time = time_predictor(job, model, gauges, market=market, tokens=tokens, validation=validation)
            present = {room.kind for room in market.rooms}
            alternatives = list_alternatives(
                plan, gauges, footprints=sizing.footprints, present=present, predict_time=predict_time
            )
        if market.rooms and sizing.home is None and not find_home(job, alternatives, market.rooms):
            text = explain_misfit(job, plan, rooms=market.rooms, gauges=gauges)
            raise CannotFitError(text, param="resources")
        return _Verdict(plan=plan, tokens=tokens, sizing=sizing, alternatives=alternatives)

    def _admit(self, job: Job, verdict: _Verdict) -> None:
        steps = verdict.plan.total_steps(verdict.tokens.examples)
        changes: dict[str, Any] = {
            "plan": verdict.plan,
            "footprints": verdict.sizing.footprints,
            "estimate": snapshot(verdict.sizing, verdict.tokens),
            "alternatives": verdict.alternatives,
            "total_steps": steps,
            "phase": None,
        }
        with self._store.write() as tx:
            _lock_unchecked(tx, job)
            self._warn_of_cost(tx, job, verdict.sizing)
            jobs.apply_job_transition(
                tx,
                job.job_id,
                JobState.QUEUED,
                message=describe_sizing(verdict.sizing, verdict.tokens, steps=steps),
                data={"rows": verdict.tokens.rows, "tokens": verdict.tokens.total_tokens, "steps": steps},
                changes=changes,
            )

    def _warn_of_cost(self, tx: WriteTx, job: Job, sizing: Sizing) -> None:
        limit, cost = job.spec.max_cost_usd_micros, sizing.cost.usd_micros if sizing.cost else None
        if limit is None or cost is None or cost <= limit:
            return
        message = (
            f"The predicted cost, {describe_usd(cost)}, is over max_cost_usd, {describe_usd(limit)}: the job will "
            "probably be stopped before its end, with a checkpoint kept."
        )
        events.append_event(tx, job.job_id, level="warn", message=message)

    def _note_crash(self, job: Job, error: TunepoolError) -> None:
        """Raises what is to be waited for: ObjectsUnavailableError when the validator had nothing to read from."""
        self._objects.ping()
        with self._lock:
            self._crashes[job.job_id] = crashes = self._crashes.get(job.job_id, 0) + 1
        if crashes <= CRASHES_FORGIVEN:
            raise error
        kind = FailureKind.PLATFORM
        message = f"The files could not be checked, {crashes} times: {error.message} {FAILURE_RULES[kind].hint}"
        self._fail(job, JobError(code=kind.value, message=message))

    def _fail(self, job: Job, error: JobError) -> None:
        with self._store.write() as tx:
            _lock_unchecked(tx, job)
            jobs.apply_job_transition(
                tx,
                job.job_id,
                JobState.FAILED,
                message=f"The job has failed its checks: {error.message}",
                level="error",
                data={"code": error.code, "param": error.param},
                changes={"error": error},
            )


def _lock_unchecked(tx: WriteTx, job: Job) -> None:
    """Raises IllegalTransitionError when the job was checked meanwhile, by another pass or control plane: it may
    run by now, and from there it could be queued or failed as well, with its attempt left behind. So it does when the
    job asks for something else by now than what was checked."""
    found = jobs.lock_job(tx, job.job_id)
    if found.state is not JobState.VALIDATING_FILES:
        raise IllegalTransitionError(f"The job is {found.state}; its files are checked no more.")
    if found.spec != job.spec:
        raise IllegalTransitionError("The job was changed while its files were checked.")


def describe_problems(problems: Sequence[FileProblem]) -> str:
    """The first problem in full, and how many there are."""
    first = problems[0]
    where = f"{first.param}, line {first.line}" if first.line else first.param
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    return f"{where}: {first.message}{more}"


def _report_tokens(training: TokenCounts, validation: TokenCounts | None) -> TokenReport:
    """The training file's counts, with the longest row of both files: no row may be cut by an 'auto' length."""
    report = TokenReport(**training.model_dump())
    if validation is None or validation.longest_row_tokens <= training.longest_row_tokens:
        return report
    return report.model_copy(update={"longest_row_tokens": validation.longest_row_tokens})
