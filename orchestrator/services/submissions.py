"""Submissions: what is checked of a job before it is one, and how it becomes one.

`prepare` may ask the object store, the hub or the tracer, so no transaction is open around it. `insert` does the rest
within the transaction of the use case, so that several jobs are accepted together or not at all.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain.artifacts import File, FilePurpose, FileStatus
from orchestrator.domain.errors import CannotFitError, ForbiddenError, InvalidRequestError
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate
from orchestrator.domain.estimate_changes import describe_misfit
from orchestrator.domain.jobs import Job
from orchestrator.domain.parents import Parent
from orchestrator.domain.placement import (
    DeviceRoom,
    WaitingJob,
    could_ever_fit,
    count_together,
    describe_too_few,
)
from orchestrator.domain.plan import SEQ_MULTIPLE_TOKENS, TrainingPlan, resolve_plan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.sizer import (
    ClosedFormSizer,
    Sizer,
    build_gauges,
    footprints_of,
    glance_at_kinds,
    measure_kinds,
)
from orchestrator.domain.spec import AUTO, JobSpec
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.parents import ResolveModel, hold_parent, resolve_model
from orchestrator.services.pool import DeviceView
from orchestrator.services.teams import find_named_team
from orchestrator.store import devices, files, jobs
from orchestrator.store.calibrations import Calibrations
from orchestrator.store.jobs import NewJob
from orchestrator.store.session import ReadTx, Store, WriteTx


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job that may be inserted: its spec with what it takes from its parent, if it has one."""

    spec: JobSpec
    seed: int
    model: BaseModel
    parent: Parent | None


@dataclass(frozen=True)
class Submissions:
    """`min_rows` is the least number of training rows that a job takes."""

    store: Store
    models: ResolveModel
    min_rows: int = 1
    sizer: Sizer = field(default_factory=ClosedFormSizer)
    calibrations: Calibrations = field(default_factory=Calibrations)

    def prepare(self, caller: Caller, spec: JobSpec, *, team: str | None) -> Prepared:
        """Raises InvalidRequestError, naming the field, for what can be known to be wrong before the files are
        tokenized, and CannotFitError for what no device of the pool could hold."""
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
        return Prepared(spec=spec, seed=seed, model=model, parent=parent)

    def insert(
        self,
        tx: WriteTx,
        caller: Caller,
        prepared: Prepared,
        *,
        job_id: str,
        team_id: str,
        array_id: str | None = None,
    ) -> Job:
        """Raises InvalidRequestError, naming the field, for files that are not the team's or of no use, and for a
        parent that went meanwhile."""
        spec, parent, model = prepared.spec, prepared.parent, prepared.model
        self._lock_files(tx, team_id, spec)
        if parent is not None:
            hold_parent(tx, parent)
        new = NewJob(
            job_id=job_id,
            team_id=team_id,
            created_by=caller.key_id,
            spec=spec,
            seed=prepared.seed,
            model_name=model.name,
            model_revision=model.revision,
            parent=parent,
            array_id=array_id,
        )
        start = f"The job is created and will continue from {parent.name}" if parent else "The job is created"
        return jobs.insert_job(tx, new, message=f"{start}; its files are checked against {model.name}.")

    def _find_team_id(self, caller: Caller, team: str | None) -> str:
        if team is None:
            return caller.team_id
        with self.store.read() as tx:
            return choose_team(tx, caller, team)

    def _require_fit(self, spec: JobSpec, plan: TrainingPlan, model: BaseModel) -> None:
        """Raises CannotFitError, with the nearest changes that would do, when no device could hold the job even empty.

        A pool that has shown no device yet refuses nothing. What fits at a glance is not looked at twice: validation
        measures every job. Only before a job is refused is a trace waited for, so no transaction is open. What was
        learned of a length holds for that length only, so without one it refuses nothing before validation.
        """
        with self.store.read() as tx:
            rooms = [DeviceView(device=device, uses=()).room for device in devices.list_devices(tx)]
            candidates = _choose_candidates(spec, rooms)
            is_known = spec.training.max_seq_length != AUTO
            learned = self.calibrations.read_by_kind(tx, candidates if is_known else (), plan=plan, model=model)
        present = {room.kind for room in candidates}
        gauges = build_gauges(self.sizer, model, learned=learned)
        glanced = glance_at_kinds(plan, gauges, kinds=present)
        if not candidates or could_ever_fit(candidates, _ask(spec, glanced)):
            return
        gauges = build_gauges(self.sizer.session(), model, learned=learned)
        measured = measure_kinds(plan, gauges, present=present)
        ask = _ask(spec, measured)
        if together := count_together(candidates, ask):
            if together < ask.count:
                raise CannotFitError(describe_too_few(ask.count, together), param="resources.count")
            return
        raise CannotFitError(describe_misfit(plan, candidates, gauges), param="resources")

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


def choose_team(tx: ReadTx, caller: Caller, team: str | None) -> str:
    """The id of the team that a submission is for. Raises ForbiddenError for another one, unless an admin asks."""
    if team is None or team in {caller.team_id, caller.team_name}:
        return caller.team_id
    if caller.role is not Role.ADMIN:
        raise ForbiddenError(f"this key belongs to team {caller.team_name!r}; only an admin submits for another team")
    return find_named_team(tx, team).team_id


def _smallest(spec: JobSpec, plan: TrainingPlan) -> TrainingPlan:
    """The plan that this one may become: an 'auto' length is decided by rows that nobody has counted yet, and the
    scheduler may choose smaller micro-batches and checkpointing for a flexible job."""
    if spec.resources.flexible:
        smaller = {
            "micro_batch_rows": 1,
            "accumulation_steps": plan.batch_rows // plan.devices,
            "gradient_checkpointing": True,
        }
        plan = plan.model_copy(update=smaller)
    if spec.training.max_seq_length != AUTO:
        return plan
    return plan.model_copy(update={"max_seq_tokens": SEQ_MULTIPLE_TOKENS})


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
        bytes_by_kind=footprints_of(memory),
        device_type=None,
        exclusive=spec.resources.exclusive,
        count=spec.resources.count,
    )
