"""A job that runs out of memory, through all loops: the next attempt's plan is changed, lost time billed to nobody."""

from typing import Any

import pytest

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.protocol import Failed, Peak
from orchestrator.domain.remedies import MAX_REMEDIES
from orchestrator.domain.states import JobState
from orchestrator.objects.client import Objects
from orchestrator.store import events, jobs, ledger
from orchestrator.store.session import Store
from tests.support.control import Rig, add_ready_job, register_model, success, training_reports, upload_checkpoint
from tests.support.launchers import GIB, ScriptedLauncher, cpu_device

FULL = Failed(failure=FailureKind.OUT_OF_MEMORY, message="The training ran out of memory.")
PEAK = Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=GIB + GIB // 10)
BATCH: dict[str, Any] = {"method": {"supervised": {"hyperparameters": {"batch_size": 8}}}}


@pytest.fixture
def rig(store: Store, objects: Objects) -> Rig:
    rig = Rig(store, objects, ScriptedLauncher([cpu_device("node-a", total_bytes=4 * GIB)]))
    register_model(store)
    return rig


def start(rig: Rig, job: Job) -> Attempt:
    """Until the job's newest attempt runs."""
    rig.make_due(job.job_id)
    rig.step()
    rig.step()
    return rig.attempts(job.job_id)[-1]


def run_out(rig: Rig, attempt: Attempt, *before: Any) -> Job:
    """The worker of the attempt reports its peak, fails, and its device is free again."""
    rig.report(attempt, *before, PEAK, FULL)
    rig.launcher.worker(attempt.attempt_id).exit(1)
    rig.step("watch")
    return rig.job(attempt.job_id)


def story(rig: Rig, job: Job) -> list[str]:
    with rig.store.read() as tx:
        return [event.message for event in events.list_events(tx, job.job_id, limit=100, descending=False).items]


def test_what_was_predicted_of_a_plan_goes_with_it(rig: Rig) -> None:
    """Compared with another plan's run it would teach what is not so."""
    time = {"cpu": {"seconds": 9.0, "uncalibrated": {"training": 8.0}}}
    estimate = {"memory": {"cpu": {"total_bytes": GIB}}, "time": time, "savings": [{"effect": "less"}], "rows": 3}
    job = add_ready_job(rig.store, estimate=estimate, **BATCH)
    waiting = run_out(rig, start(rig, job))
    left = {"cpu": {"seconds": 9.0, "uncalibrated": {}}}
    assert waiting.estimate == {"memory": {}, "time": left, "savings": [], "rows": 3}


def test_the_next_attempt_has_a_smaller_micro_batch_and_goes_on_from_the_checkpoint(rig: Rig) -> None:
    job = add_ready_job(rig.store, **BATCH)
    attempt = start(rig, job)
    checkpoint = upload_checkpoint(rig.objects, attempt, step=4)
    waiting = run_out(rig, attempt, *training_reports(1, 5), checkpoint)
    assert (waiting.state, waiting.platform_failures, waiting.error) == (JobState.QUEUED, 0, None)
    assert story(rig, job)[-1] == (
        "Attempt 1 ran out of memory at 1.10 GiB of 1.00 GiB; attempt 2 uses a micro-batch of 2 instead of 4, with 4 "
        "accumulation steps instead of 2, so each step still trains on 8 rows."
    )
    second = start(rig, job)
    spec = rig.launcher.launches[-1].spec
    assert second.number == 2
    assert (spec.plan.batch_rows, spec.plan.micro_batch_rows, spec.plan.accumulation_steps) == (8, 2, 4)
    assert spec.resume_from is not None
    assert spec.resume_from.step == 4
    rig.report(second, *training_reports(5, 15), success(second))
    rig.step()
    assert rig.job(job.job_id).state is JobState.SUCCEEDED
    with rig.store.read() as tx:
        lost = [entry for entry in ledger.list_entries(tx, job_id=job.job_id) if not entry.billed]
    assert [entry.attempt_id for entry in lost] == [attempt.attempt_id], "after its checkpoint, billed to nobody"


def test_what_was_measured_and_reserved_stays_with_the_attempt(rig: Rig) -> None:
    job = add_ready_job(rig.store, **BATCH)
    run_out(rig, start(rig, job))
    (attempt,) = rig.attempts(job.job_id)
    assert (attempt.peak_device_bytes, attempt.reserved_bytes) == (PEAK.device_bytes, GIB)
    assert attempt.failure_kind is FailureKind.OUT_OF_MEMORY


def test_a_job_that_never_fits_ends_with_the_smallest_change_that_would(rig: Rig) -> None:
    job = add_ready_job(rig.store, **BATCH)
    reserved = []
    for _ in range(MAX_REMEDIES):
        attempt = start(rig, job)
        reserved.append(attempt.reserved_bytes)
        assert run_out(rig, attempt).state is JobState.QUEUED
    attempt = start(rig, job)
    ended = run_out(rig, attempt)
    assert [*reserved, attempt.reserved_bytes] == [GIB] * MAX_REMEDIES + [GIB * 5 // 4]
    assert (ended.state, len(rig.attempts(job.job_id))) == (JobState.FAILED, MAX_REMEDIES + 1)
    assert ended.error is not None
    assert ended.error.code == "out_of_memory"
    assert "memory" in ended.error.message
    assert any(words in ended.error.message for words in ("should fit", "It takes a device"))
    with rig.store.read() as tx:
        billed, _ = ledger.sum_for_job(tx, job.job_id)
        assert billed == 0, "no checkpoint was kept"
        told = events.list_events(tx, job.job_id, limit=100, descending=False).items
    assert [e.data["remedy"] for e in told if e.data and "remedy" in e.data] == [
        "micro_batch", "micro_batch", "gradient_checkpointing", "memory",
    ]  # fmt: skip


def test_a_cancel_beats_the_remedy(rig: Rig) -> None:
    job = add_ready_job(rig.store, **BATCH)
    attempt = start(rig, job)
    with rig.store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    assert run_out(rig, attempt).state is JobState.CANCELLED
    assert rig.job(job.job_id).plan == job.plan
