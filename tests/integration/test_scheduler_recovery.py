"""Lost workers, lost nodes, restarted and doubled control planes: what goes on, what is retried, what stays fenced."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import LeaseLostError
from orchestrator.domain.jobs import Job
from orchestrator.domain.outcomes import lost
from orchestrator.domain.protocol import Pulled
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.objects.client import Objects
from orchestrator.runtime.launcher import PullRequest
from orchestrator.scheduler.control import ControlPlane
from orchestrator.store import attempts, devices, events, leader, ledger, logs
from orchestrator.store.session import Store
from orchestrator.store.tables.attempts import attempts as attempt_rows
from tests.support.control import Rig, add_ready_job, success, training_reports, upload_checkpoint
from tests.support.launchers import ScriptedLauncher, cpu_device


@pytest.fixture
def rig(store: Store, objects: Objects) -> Rig:
    return Rig(store, objects, ScriptedLauncher([cpu_device("node-a"), cpu_device("node-b")]))


def _start(rig: Rig) -> tuple[Job, Attempt]:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    assert attempt.state is AttemptState.RUNNING
    return job, attempt


def _back_date(rig: Rig, attempt: Attempt, **moments: datetime) -> None:
    with rig.store.write() as tx:
        tx.execute(update(attempt_rows).where(attempt_rows.c.attempt_id == attempt.attempt_id).values(moments))


def test_a_restarted_control_plane_adopts_its_workers(rig: Rig) -> None:
    job, attempt = _start(rig)
    rig.report(attempt, *training_reports(1, 5))
    rig.step("watch")
    rig.report(attempt, *training_reports(6, 9))
    rig.restart()
    rig.step()
    (adopted,) = rig.attempts(job.job_id)
    assert adopted.lease_generation == attempt.lease_generation + 1
    assert adopted.lease_token != attempt.lease_token
    rig.report(attempt, *training_reports(10, 15), success(attempt))
    rig.step()
    assert rig.job(job.job_id).state is JobState.SUCCEEDED
    assert len(rig.launcher.launches) == 1
    with rig.store.read() as tx:
        assert [line.text for line in logs.list_logs(tx, job.job_id)] == [f"step {n}" for n in range(1, 16)]


def test_a_killed_worker_is_followed_by_an_attempt_that_resumes(rig: Rig) -> None:
    job, attempt = _start(rig)
    rig.report(attempt, *training_reports(1, 5), upload_checkpoint(rig.objects, attempt, step=5))
    rig.report(attempt, *training_reports(6, 7))
    rig.launcher.worker(attempt.attempt_id).exit(-9)
    rig.step()
    waiting = rig.job(job.job_id)
    assert (waiting.state, waiting.platform_failures) == (JobState.QUEUED, 1)
    assert rig.attempts(job.job_id)[0].failure_message == "The training process was ended by SIGKILL."
    rig.make_due(job.job_id)
    rig.step()
    second = rig.attempts(job.job_id)[1]
    assert (second.number, second.resumed_from_step) == (2, 5)
    with rig.store.read() as tx:
        story = [event.message for event in events.list_events(tx, job.job_id, limit=50).items]
        entries = ledger.list_entries(tx, job_id=job.job_id)
    assert "Attempt 2 goes on from the checkpoint at step 5." in story
    assert [entry.billed for entry in entries] == [True, False], "work after the checkpoint is billed to nobody"


def test_a_checkpoint_whose_report_was_lost_is_found_in_the_object_store(rig: Rig) -> None:
    job, attempt = _start(rig)
    upload_checkpoint(rig.objects, attempt, step=4)
    newer = upload_checkpoint(rig.objects, attempt, step=8)
    rig.objects.delete(newer.key_prefix + "adapter_model.safetensors")
    rig.launcher.worker(attempt.attempt_id).exit(-9)
    rig.step()
    rig.make_due(job.job_id)
    rig.step()
    assert rig.attempts(job.job_id)[1].resumed_from_step == 4


def test_a_supervisor_that_is_gone_is_proved_gone_before_the_job_goes_on(rig: Rig) -> None:
    job, attempt = _start(rig)
    rig.launcher.workers.clear()
    rig.launcher.unkillable.add(attempt.attempt_id)
    for _ in range(3):
        rig.step()
        rig.pass_time(10)
    assert rig.job(job.job_id).state is JobState.RUNNING, "its processes may still live"
    rig.launcher.unkillable.clear()
    rig.pass_time(40)
    rig.step("lead", "reap")
    (gone,) = rig.attempts(job.job_id)
    assert (gone.state, gone.failure_message) == (AttemptState.LOST, "The supervisor on node-a is not there any more.")
    assert gone.released_at is not None


def test_one_odd_answer_ends_nothing(rig: Rig) -> None:
    job, attempt = _start(rig)
    worker = rig.launcher.workers.pop(attempt.attempt_id)
    rig.step("watch", "reap")
    rig.launcher.workers[attempt.attempt_id] = worker
    rig.pass_time(30)
    rig.step()
    assert rig.job(job.job_id).state is JobState.RUNNING
    assert rig.launcher.released == []


def test_a_silent_worker_is_given_up_after_its_lease_but_its_device_is_not_free(rig: Rig) -> None:
    job, attempt = _start(rig)
    rig.launcher.worker(attempt.attempt_id).answering = False
    rig.launcher.unkillable.add(attempt.attempt_id)
    rig.step()
    assert rig.job(job.job_id).state is JobState.RUNNING
    contact = datetime.now(UTC) - timedelta(seconds=200)
    _back_date(rig, attempt, lease_expires_at=contact + timedelta(seconds=120))
    rig.step("reap")
    assert rig.job(job.job_id).state is JobState.QUEUED
    rig.step("reap")
    with rig.store.read() as tx:
        (use,) = devices.list_uses(tx)
    assert (use.attempt_id, use.draining) == (attempt.attempt_id, True)
    rig.make_due(job.job_id)
    rig.step()
    assert rig.attempts(job.job_id)[1].state is AttemptState.RUNNING


def test_a_node_that_left_frees_its_device_only_after_the_supervisors_deadline(rig: Rig) -> None:
    job, attempt = _start(rig)
    rig.launcher.lose_node("node-a")
    rig.pass_time(40)
    rig.step()
    assert rig.job(job.job_id).state is JobState.RUNNING, "not proved: the node does not answer"
    _back_date(rig, attempt, lease_expires_at=datetime.now(UTC) - timedelta(seconds=31))
    rig.pass_time(40)
    rig.step("lead", "survey", "reap")
    assert rig.job(job.job_id).state is JobState.QUEUED
    with rig.store.read() as tx:
        assert len(devices.list_uses(tx)) == 1
    _back_date(rig, attempt, lease_expires_at=datetime.now(UTC) - timedelta(seconds=120 / 6 + 10 + 31))
    rig.pass_time(40)
    rig.step("lead", "reap")
    with rig.store.read() as tx:
        assert devices.list_uses(tx) == []


def test_a_launch_whose_answer_was_lost_is_asked_for_again_and_starts_once(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step("lead", "survey", "place")
    rig.launcher.available = False
    rig.step("launch")
    (attempt,) = rig.attempts(job.job_id)
    assert attempt.state is AttemptState.LAUNCHING
    rig.launcher.available = True
    rig.pass_time(1)
    rig.step("watch", "reap", "launch", "watch")
    assert [launch.lease_generation for launch in rig.launcher.launches] == [1]
    assert rig.attempts(job.job_id)[0].state is AttemptState.RUNNING


def test_after_a_restart_a_launch_is_never_asked_for_again(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step("lead", "survey", "place")
    rig.launcher.available = False
    rig.step("launch")
    rig.launcher.available = True
    rig.restart()
    rig.step()
    rig.pass_time(6)
    rig.step("lead", "watch", "reap")
    (attempt,) = rig.attempts(job.job_id)
    assert (attempt.state, attempt.failure_message) == (AttemptState.LOST, "No supervisor of it was found on node-a.")
    assert rig.launcher.launches == []
    rig.make_due(job.job_id)
    rig.step()
    assert [launch.spec.number for launch in rig.launcher.launches] == [2]


def test_a_worker_that_never_answers_is_given_up_after_the_launch_timeout(rig: Rig) -> None:
    rig.launcher._on_launch = lambda worker: setattr(worker, "answering", False)
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    assert attempt.state is AttemptState.LAUNCHING
    _back_date(rig, attempt, started_at=datetime.now(UTC) - timedelta(seconds=301))
    rig.step("reap")
    (given_up,) = rig.attempts(job.job_id)
    assert given_up.failure_message == "The worker on node-a did not answer within 300 s of its launch."
    with rig.store.read() as tx:
        assert ledger.sum_for_job(tx, job.job_id) == (0, 0), "it never gave a sign of life"


def _second_plane(rig: Rig) -> ControlPlane:
    return rig.build(owner="control-2")


def test_a_second_control_plane_does_nothing_while_the_first_leads(rig: Rig) -> None:
    other = _second_plane(rig)
    rig.step()
    job = add_ready_job(rig.store)
    rig.step(plane=other)
    assert not other.leadership.is_leading()
    assert rig.job(job.job_id).state is JobState.QUEUED
    rig.step()
    assert rig.job(job.job_id).state is JobState.RUNNING


def test_after_a_resignation_another_takes_over_at_once_and_retrains_nothing(rig: Rig) -> None:
    job, attempt = _start(rig)
    other = _second_plane(rig)
    rig.plane.resign()
    assert not rig.plane.leadership.is_leading()
    rig.step(plane=other)
    rig.report(attempt, success(attempt))
    rig.step(plane=other)
    assert rig.job(job.job_id).state is JobState.SUCCEEDED
    assert len(rig.launcher.launches) == 1


def _depose(rig: Rig) -> ControlPlane:
    """Another control plane leads now, and the first, which was paused, believes that it still does."""
    with rig.store.write() as tx:
        leader.resign_leadership(tx, rig.settings.owner)
    other = _second_plane(rig)
    rig.step("lead", plane=other)
    assert rig.plane.leadership.is_leading()
    return other


def test_a_deposed_leader_places_nothing(rig: Rig) -> None:
    rig.step()
    job = add_ready_job(rig.store)
    _depose(rig)
    rig.step("place")
    assert rig.attempts(job.job_id) == []
    assert rig.job(job.job_id).state is JobState.QUEUED


def test_a_deposed_leader_stores_nothing_that_it_pulled(rig: Rig) -> None:
    job, attempt = _start(rig)
    old_view = rig.plane.runners["watch"]
    rig.report(attempt, *training_reports(1, 3))
    seen = old_view._loop.load()
    other = _depose(rig)
    (news,) = old_view._loop.decide(seen)
    with pytest.raises(LeaseLostError):
        old_view._loop.apply(news)
    with rig.store.read() as tx:
        assert logs.list_logs(tx, job.job_id) == []
    rig.step("watch", plane=other)
    with rig.store.read() as tx:
        assert len(logs.list_logs(tx, job.job_id)) == 3


def test_a_deposed_leader_acts_on_no_attempt(rig: Rig) -> None:
    job, attempt = _start(rig)
    _depose(rig)
    rig.report(attempt, success(attempt))
    rig.step("validate", "place", "launch", "watch", "publish", "reap")
    assert rig.job(job.job_id).state is JobState.RUNNING
    with pytest.raises(LeaseLostError), rig.store.write() as tx:
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, lost("too late"), ended_at=tx.now())


def test_a_deposed_leader_kills_nothing(rig: Rig) -> None:
    job, attempt = _start(rig)
    reap = rig.plane.runners["reap"]._loop
    _back_date(rig, attempt, lease_expires_at=datetime.now(UTC) - timedelta(hours=1))
    (decision,) = reap.decide(reap.load())
    rig.pass_time(100)
    with pytest.raises(LeaseLostError):
        reap.apply(decision)
    assert rig.launcher.released == []
    assert rig.job(job.job_id).state is JobState.RUNNING


def test_trust_ends_before_the_lease_does(rig: Rig) -> None:
    plane = rig.build(leader_lease_seconds=15)
    rig.step("lead", plane=plane)
    rig.pass_time(12.9)
    assert plane.leadership.is_leading()
    rig.pass_time(0.2)
    assert not plane.leadership.is_leading()
    short = rig.build(leader_lease_seconds=2)
    rig.step("lead", plane=short)
    rig.pass_time(1.5)
    assert short.leadership.is_leading()
    rig.pass_time(0.2)
    assert not short.leadership.is_leading()


def test_renewing_keeps_the_tokens_and_taking_over_again_changes_them(rig: Rig) -> None:
    job, attempt = _start(rig)
    rig.step("lead")
    assert rig.attempts(job.job_id)[0].lease_token == attempt.lease_token
    rig.pass_time(100)
    rig.step("lead")
    assert rig.attempts(job.job_id)[0].lease_generation == attempt.lease_generation + 1


def test_an_attempt_of_a_former_owner_is_claimed_by_the_next_renewal(rig: Rig) -> None:
    job, attempt = _start(rig)
    _back_date(rig, attempt, **{"lease_owner": "control-9"})  # type: ignore[arg-type]
    rig.step("lead")
    assert rig.attempts(job.job_id)[0].lease_owner == rig.settings.owner


def test_many_log_lines_are_drained_pull_by_pull(store: Store, objects: Objects) -> None:
    rig = Rig(store, objects, ScriptedLauncher([cpu_device()], entries_per_pull=7))
    job, attempt = _start(rig)
    rig.report(attempt, *training_reports(1, 15), success(attempt))
    passes = 1
    while rig.plane.runners["watch"].run_once():
        passes += 1
    assert passes == -(-(15 * 3 + 1) // 7)
    assert rig.attempts(job.job_id)[0].state is AttemptState.VERIFYING


def test_a_silent_worker_does_not_keep_the_others_waiting(rig: Rig) -> None:
    _, silent = _start(rig)
    talking_job = add_ready_job(rig.store)
    rig.step()
    (talking,) = rig.attempts(talking_job.job_id)
    rig.launcher.worker(silent.attempt_id).answering = False
    asked: list[list[str]] = []
    pull = rig.launcher.pull

    def note_and_pull(requests: Sequence[PullRequest], *, timeout_seconds: float) -> dict[str, Pulled | Exception]:
        asked.append([request.attempt_id for request in requests])
        return pull(requests, timeout_seconds=timeout_seconds)

    rig.launcher.pull = note_and_pull  # type: ignore[method-assign]
    for _ in range(4):
        rig.step("watch")
        rig.pass_time(0.25)
    assert sum(silent.attempt_id in ids for ids in asked) == 2
    assert all(talking.attempt_id in ids for ids in asked)


def test_grants_are_renewed_with_the_first_pull_and_before_they_expire(rig: Rig) -> None:
    _, attempt = _start(rig)
    worker = rig.launcher.worker(attempt.attempt_id)
    assert len(worker.grants) == 1
    rig.step()
    assert len(worker.grants) == 1
    rig.restart()
    rig.step()
    assert len(worker.grants) == 2


def test_a_budget_stops_the_worker_and_is_never_exceeded(rig: Rig) -> None:
    job = add_ready_job(rig.store, max_cost_usd="0.01")
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    spec = rig.launcher.worker(attempt.attempt_id).launch.spec
    # One eighth of a device at $3.60 an hour costs a cent in 80 seconds; a tenth of them is kept for saving.
    assert (spec.run_limit_seconds, spec.run_limit_reason) == (72, "budget_exceeded")
    _back_date(rig, attempt, started_at=datetime.now(UTC) - timedelta(seconds=75))
    rig.step("watch")
    (stop,) = rig.launcher.worker(attempt.attempt_id).stops
    assert (stop.reason, stop.save) == ("budget_exceeded", True)
    _back_date(rig, attempt, started_at=datetime.now(UTC) - timedelta(seconds=500))
    rig.launcher.worker(attempt.attempt_id).exit(-9)
    rig.step("watch")
    failed = rig.job(job.job_id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error.code == "budget_exceeded"
    with rig.store.read() as tx:
        assert ledger.sum_for_job(tx, job.job_id) == (10_000, 0)
