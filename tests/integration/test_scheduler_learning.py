"""An ended attempt leaves its observation in the same transaction, and the next estimate of its kind uses it."""

import pytest
from sqlalchemy import update

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.observations import Observation
from orchestrator.domain.protocol import Entry, Failed, Metric, Peak, Phase, Progress, Report, Stopped
from orchestrator.domain.states import JobState
from orchestrator.objects.client import Objects
from orchestrator.store import jobs, models, observations
from orchestrator.store.session import Store
from orchestrator.store.tables.observations import observations as observation_rows
from tests.support.control import Rig, add_ready_job, success
from tests.support.launchers import GIB, ScriptedLauncher, cpu_device
from tests.support.plans import SMOLLM2_135M, make_base_model
from tests.support.rows import add_job

STEPS = 15
STEP_SECONDS = 20.0


@pytest.fixture
def rig(store: Store, objects: Objects) -> Rig:
    rig = Rig(store, objects, ScriptedLauncher([cpu_device()]))
    with rig.store.write() as tx:
        models.upsert_model(tx, make_base_model("smol", SMOLLM2_135M))
    return rig


def start_job(rig: Rig) -> tuple[Job, Attempt]:
    """Submitted, checked, sized and running."""
    with rig.store.write() as tx:
        job = add_job(tx)
    rig.step("lead", "survey", "validate")
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    return rig.job(job.job_id), attempt


def tell(rig: Rig, attempt: Attempt, *timed: tuple[float, Report]) -> None:
    """Reports so many seconds after the launch, by the worker's clock."""
    assert attempt.started_at is not None
    worker = rig.launcher.worker(attempt.attempt_id)
    for seconds, report in timed:
        at_unix = attempt.started_at.timestamp() + seconds
        worker.entries.append(Entry(seq=len(worker.entries) + 1, at_unix=at_unix, report=report))
        if report.kind in {"succeeded", "failed", "stopped"}:
            worker.exit(0)


def raw_bytes(job: Job) -> int:
    assert job.estimate is not None
    memory = job.estimate["memory"]["cpu"]
    return int(memory["total_bytes"]) - int(memory["breakdown"].get("calibration", 0))


def train(rig: Rig, attempt: Attempt, *, peak_bytes: int) -> None:
    """A whole run: 10 s to start, 5 s to load, steps of 20 s, 3 s to save."""
    tell(
        rig, attempt, (10, Phase(phase="tokenizing")), (12, Phase(phase="loading_model")), (17, Phase(phase="training"))
    )
    for step in range(1, STEPS + 1):
        values = {"train_loss": 1.0, "step_seconds": STEP_SECONDS - 1, "tokens_per_second": 10.0}
        at = 17 + STEP_SECONDS * step
        tell(rig, attempt, (at, Metric(step=step, values=values)))
        tell(rig, attempt, (at, Progress(step=step, total_steps=STEPS, trained_tokens=100 * step)))
    peak = Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=peak_bytes)
    over = 17 + STEP_SECONDS * STEPS
    tell(rig, attempt, (over, peak), (over, Phase(phase="saving")), (over + 3, success(attempt)))
    rig.step()


def observed(rig: Rig) -> list[Observation]:
    with rig.store.read() as tx:
        return observations.list_newest(tx, 10)


def test_an_ended_attempt_leaves_what_was_predicted_and_measured(rig: Rig) -> None:
    job, attempt = start_job(rig)
    train(rig, attempt, peak_bytes=2 * raw_bytes(job))
    assert rig.job(job.job_id).state is JobState.SUCCEEDED
    (seen,) = observed(rig)
    assert (seen.attempt_id, seen.succeeded, seen.resumed, seen.out_of_memory) == (
        attempt.attempt_id,
        True,
        False,
        False,
    )
    assert (seen.kind.base_model, seen.kind.family, seen.kind.length_tokens) == ("smol", "llama", 128)
    assert (seen.predicted_bytes, seen.measured_bytes) == (raw_bytes(job), 2 * raw_bytes(job))
    assert (seen.reserved_bytes, seen.steps, seen.trained_tokens) == (attempt.reserved_bytes, STEPS, 1500)
    assert seen.seen_tokens == 10 * STEPS * (STEP_SECONDS - 1)
    seconds = {term: round(seen.measured_seconds(term)) for term in ("start", "loading", "training", "saving")}
    assert seconds == {"start": 12, "loading": 5, "training": 300, "saving": 3}
    assert job.estimate is not None
    assert seen.predicted_seconds == pytest.approx(job.estimate["time"]["cpu"]["uncalibrated"])
    assert seen.told_seconds == job.estimate["time"]["cpu"]["seconds"]


def test_the_next_estimate_of_the_same_kind_uses_it(rig: Rig) -> None:
    first, attempt = start_job(rig)
    train(rig, attempt, peak_bytes=int(1.4 * raw_bytes(first)))
    second, attempt = start_job(rig)
    assert raw_bytes(second) == raw_bytes(first)
    assert second.footprints is not None
    assert second.footprints["cpu"] == attempt.reserved_bytes > raw_bytes(first)
    assert first.estimate is not None
    assert second.estimate is not None
    before, after = first.estimate["time"]["cpu"], second.estimate["time"]["cpu"]
    assert (before["runs"], after["runs"]) == (0, 1)
    assert after["breakdown"]["training"] == pytest.approx(STEPS * STEP_SECONDS, rel=0.1)
    assert abs(before["breakdown"]["training"] / (STEPS * STEP_SECONDS) - 1) > 0.5
    assert after["uncalibrated"] == before["uncalibrated"]
    train(rig, attempt, peak_bytes=int(1.4 * raw_bytes(first)))
    third, attempt = start_job(rig)
    assert third.footprints is not None
    assert third.footprints["cpu"] > second.footprints["cpu"], "two runs bear each other out"
    assert third.footprints["cpu"] == pytest.approx(1.4 * 1.02 * raw_bytes(first), rel=0.05)


def test_a_kind_on_another_device_type_learns_nothing_of_it(rig: Rig) -> None:
    first, attempt = start_job(rig)
    train(rig, attempt, peak_bytes=int(1.4 * raw_bytes(first)))
    rig.launcher.devices[0] = cpu_device("node-b", device_type="cpu-arm")
    with rig.store.write() as tx:
        job = add_job(tx, resources={"device_type": "cpu-arm"})
    rig.step("lead", "survey", "validate")
    second = rig.job(job.job_id)
    assert second.footprints is not None
    assert second.footprints["cpu"] == raw_bytes(first)


def test_running_out_of_memory_is_an_observation_and_raises_the_margin(rig: Rig) -> None:
    first, attempt = start_job(rig)
    tell(rig, attempt, (10, Phase(phase="training")), (20, Failed(failure=FailureKind.OUT_OF_MEMORY, message="Full.")))
    rig.step()
    (seen,) = observed(rig)
    assert (seen.out_of_memory, seen.succeeded, seen.measured_bytes) == (True, False, 0)
    with rig.store.write() as tx:
        job = add_job(tx)
    rig.step("validate")
    second = rig.job(job.job_id)
    assert second.footprints is not None
    assert second.footprints["cpu"] > raw_bytes(first)


def test_a_job_too_large_by_what_was_learned_is_told_so(rig: Rig) -> None:
    """The device would hold what was predicted. What is said, and what would be enough, are of what is reserved."""
    first, attempt = start_job(rig)
    train(rig, attempt, peak_bytes=int(1.4 * raw_bytes(first)))
    second, _ = start_job(rig)
    assert second.footprints is not None
    rig.launcher.devices[0] = cpu_device(total_bytes=raw_bytes(first) + 1)
    with rig.store.write() as tx:
        job = add_job(tx)
    rig.step("survey", "validate")
    error = rig.job(job.job_id).error
    assert error is not None
    assert error.message.startswith(f"The job needs {second.footprints['cpu'] / GIB:.1f} GiB on cpu; ")
    assert "It would fit with" in error.message


def test_an_attempt_that_goes_on_later_leaves_one_each(rig: Rig) -> None:
    job, attempt = start_job(rig)
    tell(rig, attempt, (10, Phase(phase="training")), (20, Stopped(reason="shutdown", step=0)))
    rig.step()
    assert rig.job(job.job_id).state in {JobState.QUEUED, JobState.RUNNING}
    rig.step()
    assert len(rig.attempts(job.job_id)) == 2
    assert [seen.attempt_id for seen in observed(rig)] == [attempt.attempt_id]


def test_a_job_that_was_never_launched_leaves_none(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step("lead", "survey", "place")
    with rig.store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    rig.step()
    assert rig.job(job.job_id).state is JobState.CANCELLED
    assert observed(rig) == []


def test_a_running_attempts_pace_is_kept_from_pull_to_pull(rig: Rig) -> None:
    _, attempt = start_job(rig)
    step = Metric(step=1, values={"train_loss": 1.0, "step_seconds": 2.0})
    tell(rig, attempt, (10, Phase(phase="training")), (12, step))
    rig.step("watch")
    tell(rig, attempt, (15, step))
    rig.step("watch")
    (running,) = rig.attempts(attempt.job_id)
    assert running.pace is not None
    assert running.pace.recent_seconds == pytest.approx((2.0, 3.0))
    assert running.pace.phase_seconds()["training"] == pytest.approx(5.0)


def test_observations_are_forgotten_after_the_retention(rig: Rig) -> None:
    job, attempt = start_job(rig)
    train(rig, attempt, peak_bytes=raw_bytes(job))
    rig.step("clean")
    (seen,) = observed(rig)
    with rig.store.write() as tx:
        tx.execute(update(observation_rows).values(ended_at=seen.ended_at.replace(year=2020)))
    rig.step("clean")
    assert observed(rig) == []
