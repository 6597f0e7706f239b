"""From validating_files to queued or failed, and what is said about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import text

from orchestrator.domain.errors import HubUnavailableError, TunepoolError
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate
from orchestrator.domain.jobs import Job
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.protocol import FileProblem, TokenCounts, ValidationResult
from orchestrator.domain.sizer import ClosedFormSizer, Sizer
from orchestrator.domain.states import JobState
from orchestrator.objects.client import Objects
from orchestrator.store import events, jobs, models
from orchestrator.store.session import Store
from tests.support.control import FACTS, Rig, register_model
from tests.support.launchers import GIB, ScriptedLauncher, cpu_device
from tests.support.rows import add_file, add_job, add_team


@pytest.fixture
def rig(sqlite_store: Store, objects: Objects) -> Rig:
    rig = Rig(sqlite_store, objects, ScriptedLauncher([cpu_device()]))
    register_model(rig.store)
    rig.step("lead", "survey")
    return rig


def _submit(rig: Rig, **spec: object) -> Job:
    with rig.store.write() as tx:
        return add_job(tx, **spec)


def _last_message(rig: Rig, job: Job) -> str:
    with rig.store.read() as tx:
        return events.list_events(tx, job.job_id, limit=1).items[0].message


def test_a_valid_job_is_queued_with_its_plan_its_size_and_what_it_will_take(rig: Rig) -> None:
    job = _submit(rig)
    rig.step("validate")
    queued = rig.job(job.job_id)
    assert queued.state is JobState.QUEUED
    assert queued.plan is not None
    assert queued.plan.max_seq_tokens == 128, "the longest row has 120 tokens"
    assert queued.total_steps == 15
    assert queued.footprints is not None
    assert set(queued.footprints) == {"cpu", "cuda"}
    assert queued.estimate is not None
    assert queued.estimate["device_id"] == "node-a/cpu:0"
    assert queued.estimate["memory"]["cpu"]["total_bytes"] == queued.footprints["cpu"]
    message = _last_message(rig, job)
    assert message.startswith(
        "The files are valid: 40 rows, 4,000 tokens, 1,500 of them trained on; 15 steps. Predicted on cpu: "
    )
    assert "of memory" in message
    assert "$" in message


@dataclass
class TracingSizer:
    """Says 3 GiB for whatever is measured on a GPU, and nothing at a glance; keeps what it was asked."""

    asked: list[str] = field(default_factory=list)

    def measure(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> list[MemoryEstimate]:
        self.asked += [kind] * len(plans)
        known = ClosedFormSizer("no trace here").measure(model, plans, kind=kind)
        if kind == "cpu":
            return list(known)
        return [replace(one, total_bytes=3 * GIB, method="traced", reason=None) for one in known]

    def glance(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> list[MemoryEstimate]:
        return list(ClosedFormSizer("not traced yet").measure(model, plans, kind=kind))

    def session(self) -> Sizer:
        return self


def test_a_job_is_sized_by_traces_on_the_kinds_that_the_pool_has(rig: Rig) -> None:
    rig.launcher.devices.append(replace(cpu_device("node-b/cuda:0", total_bytes=8 * GIB), kind="cuda"))
    rig.sizer = sizer = TracingSizer()
    rig.restart()
    rig.step("lead", "survey")
    job = _submit(rig)
    rig.step("validate")
    queued = rig.job(job.job_id)
    assert queued.footprints is not None
    assert queued.footprints["cuda"] == 3 * GIB
    assert queued.estimate is not None
    memory = queued.estimate["memory"]
    assert (memory["cuda"]["method"], memory["cuda"]["reason"]) == ("traced", None)
    assert (memory["cpu"]["method"], memory["cpu"]["reason"]) == ("closed_form", "no trace here")
    assert set(sizer.asked) == {"cpu", "cuda"}


def test_nothing_is_traced_for_a_kind_that_the_pool_has_not(rig: Rig) -> None:
    rig.sizer = sizer = TracingSizer()
    rig.restart()
    rig.step("lead", "survey")
    job = _submit(rig)
    rig.step("validate")
    estimate = rig.job(job.job_id).estimate
    assert estimate is not None
    assert set(sizer.asked) == {"cpu"}
    assert estimate["memory"]["cuda"]["reason"] == "not traced yet"
    (saving, *_) = estimate["savings"]
    assert saving["total_bytes"] + saving["saved_bytes"] == estimate["memory"]["cpu"]["total_bytes"]


def test_the_validator_gets_urls_and_no_names_of_the_users(rig: Rig) -> None:
    with rig.store.write() as tx:
        team = add_team(tx)
        file = add_file(tx, team.team_id, filename="../../secret plans.jsonl")
        add_job(tx, team.team_id, training_file=file.file_id, training={"max_seq_length": 64})
    rig.step("validate")
    (spec,) = rig.launcher.validations
    assert spec.training_file.name == "training.jsonl"
    assert "secret" not in spec.model_dump_json()
    assert (spec.max_seq_tokens, spec.context_tokens) == (64, FACTS.max_context_tokens)


def test_a_problem_in_a_file_fails_the_job_with_its_line(rig: Rig) -> None:
    problem = FileProblem(
        param="training_file", line=7, code="row_too_long", message="the row has 300 tokens, the context is 256"
    )
    rig.launcher.validation = ValidationResult(training=None, validation=None, problems=(problem, problem))
    job = _submit(rig)
    rig.step("validate")
    failed = rig.job(job.job_id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("row_too_long", "training_file")
    assert failed.error.message == (
        "training_file, line 7: the row has 300 tokens, the context is 256 (2 problems in all)"
    )
    assert "line 7" in _last_message(rig, job)


def test_a_setting_that_the_model_cannot_have_fails_with_its_field(rig: Rig) -> None:
    job = _submit(rig, lora={"target_modules": ["nope"]})
    rig.step("validate")
    failed = rig.job(job.job_id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("unknown_target_modules", "lora.target_modules")


def test_a_job_that_no_device_could_hold_fails_and_says_what_would(rig: Rig) -> None:
    rig.launcher.devices[0] = cpu_device(total_bytes=GIB // 4)
    rig.step("survey")
    job = _submit(rig)
    rig.step("validate")
    failed = rig.job(job.job_id)
    assert failed.error is not None
    assert failed.error.code == "cannot_fit"
    assert "on cpu; the largest device that it may use is node-a/cpu:0 (cpu) with 0.2 GiB" in failed.error.message
    assert failed.error.param == "resources"


def test_a_job_that_would_fit_with_a_change_is_told_which(rig: Rig) -> None:
    job = _submit(rig, training={"micro_batch_size": 256, "max_seq_length": 256})
    rig.launcher.devices[0] = cpu_device(total_bytes=GIB)
    rig.step("survey", "validate")
    failed = rig.job(job.job_id)
    assert failed.error is not None
    assert failed.error.code == "cannot_fit"
    assert "It would fit with training.micro_batch_size" in failed.error.message


def test_the_longest_row_of_both_files_decides_the_length(rig: Rig) -> None:
    training = TokenCounts(rows=40, total_tokens=4000, trained_tokens=1500, longest_row_tokens=60, longest_row_line=3)
    validation = training.model_copy(update={"rows": 4, "longest_row_tokens": 200})
    rig.launcher.validation = ValidationResult(training=training, validation=validation, problems=())
    job = _submit(rig)
    rig.step("validate")
    plan = rig.job(job.job_id).plan
    assert plan is not None
    assert plan.max_seq_tokens == 256


def test_a_pool_that_has_shown_no_device_yet_refuses_nothing(rig: Rig) -> None:
    with rig.store.write() as tx:
        tx.execute(text("DELETE FROM devices"))
    job = _submit(rig)
    rig.step("validate")
    queued = rig.job(job.job_id)
    assert queued.state is JobState.QUEUED
    assert queued.estimate is not None
    assert queued.estimate["device_id"] is None


def test_a_model_that_is_gone_fails_the_job(rig: Rig) -> None:
    with rig.store.write() as tx:
        models.delete_model(tx, "smol")
    job = _submit(rig)
    rig.step("validate")
    failed = rig.job(job.job_id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("model_not_found", "model")


@pytest.mark.parametrize("error", [HubUnavailableError(), "cluster"])
def test_what_does_not_answer_is_waited_for(rig: Rig, error: Exception | str) -> None:
    if isinstance(error, Exception):
        rig.launcher.validation = error
    else:
        rig.launcher.available = False
    job = _submit(rig)
    for _ in range(10):
        rig.step("validate")
        rig.pass_time(1)
    assert rig.job(job.job_id).state is JobState.VALIDATING_FILES


def test_a_validator_that_crashes_is_tried_three_times(rig: Rig) -> None:
    rig.launcher.validation = TunepoolError("The validator ended with exit code -9.")
    job = _submit(rig)
    for _ in range(10):
        rig.step("validate")
        rig.pass_time(5)
    assert len(rig.launcher.validations) == 3
    failed = rig.job(job.job_id)
    assert failed.error is not None
    assert failed.error.code == "platform_error"
    assert "The files could not be checked, 3 times" in failed.error.message


def test_a_cancel_during_validation_wins(rig: Rig) -> None:
    job = _submit(rig)
    validate = rig.launcher.validate

    def cancel_meanwhile(spec: object) -> ValidationResult:
        with rig.store.write() as tx:
            jobs.request_cancel(tx, job.job_id)
            jobs.apply_job_transition(tx, job.job_id, JobState.CANCELLED, message="The job is cancelled.")
        return validate(spec)  # type: ignore[arg-type]

    rig.launcher.validate = cancel_meanwhile  # type: ignore[method-assign]
    rig.step("validate")
    assert rig.job(job.job_id).state is JobState.CANCELLED


def test_a_job_too_dear_for_its_limit_is_queued_with_a_warning(rig: Rig) -> None:
    rig.launcher.validation = ValidationResult(
        training=TokenCounts(
            rows=100_000,
            total_tokens=20_000_000,
            trained_tokens=9_000_000,
            longest_row_tokens=200,
            longest_row_line=1,
        ),
        validation=None,
        problems=(),
    )
    job = _submit(rig, max_cost_usd="0.000001")
    rig.step("validate")
    assert rig.job(job.job_id).state is JobState.QUEUED
    with rig.store.read() as tx:
        (warning,) = [e for e in events.list_events(tx, job.job_id).items if e.level == "warn"]
    assert "is over max_cost_usd, $0.000001" in warning.message


@pytest.mark.parametrize("is_valid", [True, False])
def test_a_verdict_that_comes_late_leaves_a_running_job_alone(rig: Rig, is_valid: bool) -> None:
    """Another control plane checked and placed the job while this one was frozen in its own check."""
    job = _submit(rig)
    if not is_valid:
        problem = FileProblem(param="training_file", line=1, code="row_too_long", message="the row is too long")
        rig.launcher.validation = ValidationResult(training=None, validation=None, problems=(problem,))

    def overtake(call: str) -> None:
        if call == "validate":
            with rig.store.write() as tx:
                jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="queued")
                jobs.apply_job_transition(tx, job.job_id, JobState.RUNNING, message="running")

    rig.launcher.before = overtake
    rig.step("validate")
    assert rig.job(job.job_id).state is JobState.RUNNING
    assert _last_message(rig, job) == "running"


def test_a_flexible_job_starts_smaller_rather_than_wait_and_trains_on_as_many_rows(rig: Rig) -> None:
    job = _submit(rig, resources={"flexible": True}, method={"supervised": {"hyperparameters": {"batch_size": 8}}})
    rig.step("validate")
    queued = rig.job(job.job_id)
    assert queued.footprints is not None
    names = [found.name for found in queued.alternatives]
    assert names[:2] == ["micro-batch 2", "micro-batch 1"]
    sizes = [queued.footprints["cpu"], *(found.footprints["cpu"] for found in queued.alternatives)]
    assert sizes == sorted(sizes, reverse=True)
    assert {found.plan.batch_rows for found in queued.alternatives} == {8}
    rig.launcher.devices[0] = cpu_device(total_bytes=sizes[1] + 2**20)
    rig.step("survey", "place")
    started = rig.job(job.job_id)
    assert started.state is JobState.RUNNING
    assert started.plan is not None
    assert (started.plan.micro_batch_rows, started.plan.accumulation_steps) == (2, 4)
    (attempt,) = rig.attempts(job.job_id)
    assert attempt.reserved_bytes == sizes[1]
    assert "starts with micro-batch 2 on" in _last_message(rig, job)
