"""A job's way through the loops, on both engines, with scripted workers."""

import pytest

from orchestrator.domain.failures import Failure, FailureKind
from orchestrator.domain.protocol import Failed, LogLine, Metric, Peak, Phase, Stopped
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.objects.client import Objects
from orchestrator.store import adapters, checkpoints, devices, events, files, jobs, ledger, logs, metrics
from orchestrator.store.session import Store
from tests.support.control import Rig, add_ready_job, success, training_reports, upload_checkpoint
from tests.support.launchers import GIB, ScriptedLauncher, cpu_device


@pytest.fixture
def rig(store: Store, objects: Objects) -> Rig:
    return Rig(store, objects, ScriptedLauncher([cpu_device()]))


def _messages(rig: Rig, job_id: str) -> list[str]:
    with rig.store.read() as tx:
        return [event.message for event in events.list_events(tx, job_id, limit=100, descending=False).items]


def test_a_job_goes_from_queued_to_succeeded(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    assert rig.job(job.job_id).state is JobState.RUNNING
    assert attempt.state is AttemptState.RUNNING
    rig.report(attempt, Phase(phase="training"), *training_reports(1, 7))
    rig.report(
        attempt,
        upload_checkpoint(rig.objects, attempt, step=7),
        Peak(allocated_bytes=1, reserved_bytes=2, device_bytes=3),
    )
    rig.step()
    running = rig.job(job.job_id)
    assert (running.current_step, running.total_steps, running.trained_tokens, running.phase) == (
        7,
        15,
        700,
        "training",
    )
    rig.report(attempt, *training_reports(8, 15), success(attempt))
    rig.step()
    done = rig.job(job.job_id)
    assert done.state is JobState.SUCCEEDED
    assert done.fine_tuned_model is not None
    assert (done.current_step, done.trained_tokens) == (15, 1500)
    with rig.store.read() as tx:
        adapter = adapters.find_adapter_of_job(tx, job.job_id)
        assert adapter is not None
        assert adapter.name == done.fine_tuned_model
        assert [line.text for line in logs.list_logs(tx, job.job_id)] == [f"step {n}" for n in range(1, 16)]
        assert [m.step for m in metrics.list_metrics(tx, job.job_id)] == list(range(1, 16))
        assert [c.step for c in checkpoints.list_checkpoints(tx, job.job_id).items] == [7]
        (result,) = [files.get_file(tx, file_id, job.team_id) for file_id in done.result_files]
        assert devices.list_uses(tx) == []
        entries = ledger.list_entries(tx, job_id=job.job_id)
    assert rig.objects.get(result.object_key).decode().splitlines()[:2] == [
        "step,train_loss,valid_loss,valid_mean_token_accuracy,learning_rate",
        "1,2.0,,,0.0001",
    ]
    (attempt,) = rig.attempts(job.job_id)
    assert (attempt.peak_allocated_bytes, attempt.peak_device_bytes) == (1, 3)
    assert [(e.started_at, e.ended_at, e.billed) for e in entries] == [(attempt.started_at, attempt.ended_at, True)]
    assert attempt.released_at is not None
    assert rig.launcher.released == [attempt.attempt_id]


def test_events_say_what_happened_with_numbers_and_the_last_is_the_end(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.report(
        attempt, *training_reports(1, 2), upload_checkpoint(rig.objects, attempt, step=2), success(attempt, step=2)
    )
    rig.step()
    messages = _messages(rig, job.job_id)[1:]
    assert messages[1] == "Attempt 1 starts on node-a/cpu:0 (cpu) with 1.00 GiB of 8.00 GiB, at $0.4500 an hour."
    assert messages[2].startswith("The worker of attempt 1 on node-a answers, ")
    assert messages[3] == "Step 1/15: training loss=2.0000"
    assert messages[4] == "Step 2/15: training loss=1.0000"
    assert messages[5] == "Checkpoint at step 2: 1 files, 5 bytes, saved in 0.4 s."
    assert messages[-2].startswith("The adapter ft:smol:team::")
    assert messages[-1] == "The job has succeeded: its adapter is published."
    assert messages[6].startswith(
        "Training has ended at step 2 after 200 trained tokens; the adapter's 1 files, 7 bytes"
    )


def test_evaluations_become_metrics_events_with_the_names_of_the_wire(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.report(attempt, Metric(step=4, values={"eval_loss": 1.25}))
    rig.step("watch")
    with rig.store.read() as tx:
        last = events.list_events(tx, job.job_id, limit=1).items[0]
    assert (last.type, last.message) == ("metrics", "Step 4/15: validation loss=1.2500")
    assert last.data == {"step": 4, "total_steps": 15, "valid_loss": 1.25}


def test_two_jobs_share_a_device_and_a_third_waits_for_room(rig: Rig) -> None:
    first, second, third = (add_ready_job(rig.store, needs_bytes=3 * GIB) for _ in range(3))
    rig.step()
    states = [rig.job(job.job_id).state for job in (first, second, third)]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUED]
    assert rig.job(third.job_id).phase == "waits_for_room"
    (attempt,) = rig.attempts(first.job_id)
    rig.report(attempt, success(attempt))
    rig.step()
    rig.step()
    assert rig.job(third.job_id).state is JobState.RUNNING


def test_a_job_that_no_device_could_hold_is_told_once_and_starts_when_one_comes(rig: Rig) -> None:
    job = add_ready_job(rig.store, needs_bytes=9 * GIB)
    rig.step()
    rig.step()
    assert rig.job(job.job_id).phase == "no_device_fits"
    said = [m for m in _messages(rig, job.job_id) if m.startswith("The job waits")]
    assert said == ["The job waits. It needs 9.0 GiB on one device; the largest in the pool has 8.0 GiB."]
    rig.launcher.devices.append(cpu_device("node-b", total_bytes=16 * GIB))
    rig.step()
    assert rig.job(job.job_id).state is JobState.RUNNING


def test_a_cluster_that_does_not_answer_is_not_an_empty_pool(rig: Rig) -> None:
    rig.step("lead", "survey")
    rig.launcher.available = False
    rig.step("survey")
    with rig.store.read() as tx:
        assert [device.online for device in devices.list_devices(tx)] == [True]
    rig.launcher.available = True
    rig.launcher.devices.clear()
    rig.pass_time(60)
    rig.step("lead", "survey")
    with rig.store.read() as tx:
        assert [device.online for device in devices.list_devices(tx)] == [False]


def test_a_cancel_stops_the_worker_once_and_ends_as_cancelled(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    with rig.store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    rig.step()
    rig.step()
    assert [(s.reason, s.save) for s in rig.launcher.worker(attempt.attempt_id).stops] == [("cancelled", False)]
    rig.report(attempt, Stopped(reason="cancelled", step=3))
    rig.step()
    assert rig.job(job.job_id).state is JobState.CANCELLED
    assert rig.attempts(job.job_id)[0].released_at is not None


def test_a_cancel_during_verification_wins(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.report(attempt, success(attempt))
    accept = rig.verify

    def cancel_meanwhile(*arguments: object) -> object:
        with rig.store.write() as tx:
            jobs.request_cancel(tx, job.job_id)
        return accept(*arguments)  # type: ignore[arg-type]

    rig.verify = cancel_meanwhile  # type: ignore[assignment]
    rig.step()
    assert rig.job(job.job_id).state is JobState.CANCELLED
    with rig.store.read() as tx:
        assert adapters.find_adapter_of_job(tx, job.job_id) is None


def test_a_pause_saves_holds_nothing_and_resumes_from_the_checkpoint(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    with rig.store.write() as tx:
        jobs.request_pause(tx, job.job_id)
        jobs.apply_job_transition(tx, job.job_id, JobState.PAUSING, message="Pause was asked for.")
    rig.step()
    (stop,) = rig.launcher.worker(attempt.attempt_id).stops
    assert (stop.reason, stop.save) == ("paused", True)
    rig.report(attempt, upload_checkpoint(rig.objects, attempt, step=5), Stopped(reason="paused", step=5))
    rig.step()
    assert rig.job(job.job_id).state is JobState.PAUSED
    with rig.store.read() as tx:
        assert devices.list_uses(tx) == []
    with rig.store.write() as tx:
        jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="The job was resumed.")
    rig.step()
    second = rig.attempts(job.job_id)[1]
    assert second.resumed_from_step == 5
    resume = rig.launcher.worker(second.attempt_id).launch.spec.resume_from
    assert resume is not None
    assert (resume.step, [file.name for file in resume.files]) == (5, ["adapter_model.safetensors"])


def test_a_wish_to_cancel_before_the_launch_starts_nothing(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step("lead", "survey", "place")
    with rig.store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    rig.step()
    assert rig.job(job.job_id).state is JobState.CANCELLED
    assert rig.launcher.launches == []
    (attempt,) = rig.attempts(job.job_id)
    assert attempt.released_at is not None
    with rig.store.read() as tx:
        assert ledger.list_entries(tx, job_id=job.job_id) == []


def test_a_bad_adapter_is_the_platforms_fault_and_tried_again(rig: Rig) -> None:

    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.verify = lambda job, attempt, result: Failure(kind=FailureKind.BAD_ARTIFACT, message="A checksum differs.")
    rig.report(attempt, success(attempt))
    rig.step()
    again = rig.job(job.job_id)
    assert (again.state, again.platform_failures) == (JobState.QUEUED, 1)
    with rig.store.read() as tx:
        assert ledger.sum_for_job(tx, job.job_id)[0] == 0


def test_the_workers_own_failure_ends_the_job_and_its_traceback_is_in_the_log(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.report(
        attempt,
        LogLine(stream="stderr", level="error", text="loss is nan"),
        Failed(failure=FailureKind.DIVERGED, message="The loss was not finite at step 3.", detail="Traceback: ..."),
    )
    rig.step()
    failed = rig.job(job.job_id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error.code == "loss_not_finite"
    with rig.store.read() as tx:
        assert [line.text for line in logs.list_logs(tx, job.job_id)] == ["loss is nan", "Traceback: ..."]
