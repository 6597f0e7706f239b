"""What is cleaned away and what is kept, and that a kill in between is repaired by the next pass."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator.domain.artifacts import Upload, UploadPart, UploadStatus
from orchestrator.domain.ids import new_job_id, new_part_id, new_upload_id
from orchestrator.domain.jobs import Job
from orchestrator.domain.parents import Parent
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import JobState
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import file_key, job_prefix, upload_part_key
from orchestrator.scheduler.clean import choose_superseded
from orchestrator.store import adapters, checkpoints, events, files, jobs, ledger, logs, metrics, uploads
from orchestrator.store.session import Store, WriteTx
from orchestrator.store.tables.files import uploads as upload_rows
from orchestrator.store.tables.jobs import jobs as job_rows
from tests.support.control import Rig, add_ready_job, success, training_reports, upload_checkpoint
from tests.support.crashes import FragileStore, Killed, KillSwitch
from tests.support.facts import NOW, make_attempt
from tests.support.launchers import ScriptedLauncher, cpu_device
from tests.support.rows import add_file, add_team, make_checkpoint


@pytest.fixture
def rig(sqlite_store: Store, objects: Objects) -> Rig:
    return Rig(sqlite_store, objects, ScriptedLauncher([cpu_device()]))


def _finished(rig: Rig, *, age: timedelta) -> Job:
    """A job that succeeded so long ago, with two checkpoints, an adapter and a stray file of its attempt."""
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.report(attempt, *training_reports(1, 15))
    rig.report(
        attempt, upload_checkpoint(rig.objects, attempt, step=5), upload_checkpoint(rig.objects, attempt, step=10)
    )
    done = success(attempt)
    rig.objects.put(done.key_prefix + "adapter_model.safetensors", b"weights")
    rig.objects.put(done.key_prefix.replace("adapter/", "stray.bin"), b"stray")
    rig.report(attempt, done)
    rig.step()
    _let_pass(rig, job, age)
    return job


def _let_pass(rig: Rig, job: Job, age: timedelta) -> None:
    """Since the job has ended."""
    with rig.store.write() as tx:
        ended = update(job_rows).where(job_rows.c.job_id == job.job_id)
        tx.execute(ended.values(finished_at=datetime.now(UTC) - age))


def _keys(rig: Rig, job: Job) -> list[str]:
    return [item.key.split("/", 4)[4] for item in rig.objects.list(job_prefix(job.job_id))]


CHECKPOINT_FILES = ["adapter_model.safetensors", "manifest.json"]


def _checkpoint_keys(step: int) -> list[str]:
    return [f"checkpoints/step-{step:08d}/{name}" for name in CHECKPOINT_FILES]


def test_an_ended_job_keeps_its_adapter_and_its_newest_checkpoint(rig: Rig) -> None:
    job = _finished(rig, age=timedelta(hours=2))
    rig.step("clean")
    assert _keys(rig, job) == ["adapter/adapter_model.safetensors", *_checkpoint_keys(10)]
    with rig.store.read() as tx:
        assert [c.step for c in checkpoints.list_checkpoints(tx, job.job_id).items] == [10]
        assert adapters.find_adapter_of_job(tx, job.job_id) is not None
        assert len(logs.list_logs(tx, job.job_id)) == 15


def test_a_checkpoint_that_a_job_continues_from_outlives_its_own_job(rig: Rig) -> None:
    made = _finished(rig, age=timedelta(days=91))
    child = _continue(rig, made)
    kept = ["adapter/adapter_model.safetensors", *_checkpoint_keys(5)]
    rig.step("clean")
    for _ in range(2):
        rig.step("clean")
        assert _keys(rig, made) == kept
    with rig.store.write() as tx:
        jobs.apply_job_transition(tx, child.job_id, JobState.CANCELLED, message="Cancelled.")
    rig.step("clean")
    assert _keys(rig, made) == kept[:1]


def test_jobs_that_others_go_on_from_do_not_stand_before_younger_ones(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.scheduler.clean.BATCH", 1)
    held, younger = _finished(rig, age=timedelta(0)), _finished(rig, age=timedelta(0))
    child = _continue(rig, held)
    _let_pass(rig, held, timedelta(days=92))
    _let_pass(rig, younger, timedelta(days=91))
    for _ in range(6):
        rig.step("clean")
    assert _keys(rig, younger) == ["adapter/adapter_model.safetensors"]
    assert _keys(rig, held) == ["adapter/adapter_model.safetensors", *_checkpoint_keys(5)]
    with rig.store.write() as tx:
        jobs.apply_job_transition(tx, child.job_id, JobState.CANCELLED, message="Cancelled.")
    for _ in range(2):
        rig.step("clean")
    assert _keys(rig, held) == ["adapter/adapter_model.safetensors"]


def _continue(rig: Rig, made: Job) -> Job:
    """A job that goes on from the other's checkpoint of step 5, and has not ended."""
    with rig.store.write() as tx:
        checkpoint = checkpoints.find_at_step(tx, made.job_id, 5)
        assert checkpoint is not None
        parent = Parent(
            name="ft:smol:team::0a1b2c3d:ckpt-step-5",
            job_id=made.job_id,
            adapter_id=None,
            checkpoint_id=checkpoint.checkpoint_id,
            step=5,
            key_prefix=checkpoint.key_prefix,
            weights=checkpoint.files[0],
        )
        file = add_file(tx, made.team_id)
        spec = JobSpec(model=parent.name, training_file=file.file_id)
        new = jobs.NewJob(
            job_id=new_job_id(),
            team_id=made.team_id,
            created_by="key-1",
            spec=spec,
            seed=7,
            model_name="smol",
            parent=parent,
        )
        return jobs.insert_job(tx, new, message="The job is created.")


def test_a_job_that_has_just_ended_is_left_alone(rig: Rig) -> None:
    job = _finished(rig, age=timedelta(minutes=10))
    rig.step("clean")
    assert len(_keys(rig, job)) == 6


def test_after_the_retention_logs_metrics_and_checkpoints_go_and_the_bill_stays(rig: Rig) -> None:
    job = _finished(rig, age=timedelta(days=91))
    while rig.plane.runners["clean"].run_once():
        pass
    rig.step("clean")
    assert _keys(rig, job) == ["adapter/adapter_model.safetensors"]
    with rig.store.read() as tx:
        assert logs.list_logs(tx, job.job_id) == []
        assert metrics.list_metrics(tx, job.job_id) == []
        assert checkpoints.find_latest(tx, job.job_id) is None
        assert ledger.list_entries(tx, job_id=job.job_id)
        assert events.list_events(tx, job.job_id).items
        assert adapters.find_adapter_of_job(tx, job.job_id) is not None


def test_what_an_attempt_wrote_stays_until_the_attempt_is_proved_gone(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    rig.launcher.unkillable.add(attempt.attempt_id)
    rig.objects.put(success(attempt).key_prefix + "adapter_model.safetensors", b"half")
    with rig.store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    rig.launcher.worker(attempt.attempt_id).exit(-9)
    rig.step()
    assert rig.job(job.job_id).state is JobState.CANCELLED
    with rig.store.write() as tx:
        ended = update(job_rows).where(job_rows.c.job_id == job.job_id)
        tx.execute(ended.values(finished_at=datetime.now(UTC) - timedelta(days=1)))
    rig.step("clean")
    assert len(_keys(rig, job)) == 1
    rig.launcher.unkillable.clear()
    rig.pass_time(40)
    rig.step("lead", "reap", "clean")
    assert _keys(rig, job) == []


def test_a_running_job_keeps_its_two_newest_checkpoints(rig: Rig) -> None:
    job = add_ready_job(rig.store)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    for step in (2, 4, 6, 8):
        rig.report(attempt, upload_checkpoint(rig.objects, attempt, step=step))
    rig.step("watch", "clean")
    assert _keys(rig, job) == [*_checkpoint_keys(6), *_checkpoint_keys(8)]
    with rig.store.read() as tx:
        assert sorted(c.step for c in checkpoints.list_checkpoints(tx, job.job_id).items) == [6, 8]


def test_superseded_is_decided_by_step_and_then_by_attempt() -> None:
    first, second = make_attempt(number=1), make_attempt(number=2, attempt_id="attempt-2")
    kept = [make_checkpoint(second, step=9, created_at=NOW), make_checkpoint(first, step=9, created_at=NOW)]
    old = make_checkpoint(first, step=8, created_at=NOW + timedelta(hours=1))
    assert choose_superseded([old, *kept]) == [old]
    assert choose_superseded(kept) == []


def test_a_deleted_file_loses_its_object_and_then_its_row(rig: Rig) -> None:
    with rig.store.write() as tx:
        team = add_team(tx)
        kept, dropped = add_file(tx, team.team_id), add_file(tx, team.team_id)
        expired = add_file(tx, team.team_id, expires_at=tx.now() - timedelta(days=1))
        files.mark_file_deleted(tx, dropped.file_id)
    for file in (kept, dropped, expired):
        rig.objects.put(file_key(team.team_id, file.file_id), b"rows")
    rig.step("lead", "clean")
    left = [file.file_id for file in (kept, dropped, expired) if rig.objects.head(file.object_key)]
    assert left == [kept.file_id]
    with rig.store.read() as tx:
        assert files.list_expired_or_deleted(tx, 10) == []


def test_a_deleted_adapter_loses_its_objects(rig: Rig) -> None:
    job = _finished(rig, age=timedelta(minutes=1))
    with rig.store.write() as tx:
        adapter = adapters.find_adapter_of_job(tx, job.job_id)
        assert adapter is not None
        adapters.mark_deleted(tx, adapter.adapter_id)
    rig.step("clean")
    assert "adapter/adapter_model.safetensors" not in _keys(rig, job)
    with rig.store.read() as tx:
        assert adapters.list_deleted(tx, 10) == []


def test_an_upload_that_nobody_completed_expires_with_its_parts(rig: Rig) -> None:
    with rig.store.write() as tx:
        team = add_team(tx)
        fresh, old = (_add_upload(tx, team.team_id, age=timedelta(minutes=age)) for age in (5, 15))
    for upload, part in (fresh, old):
        rig.objects.put(part.object_key, b"part")
        with rig.store.write() as tx:
            old_row = update(upload_rows).where(upload_rows.c.upload_id == upload.upload_id)
            tx.execute(old_row.values(expires_at=upload.expires_at))
    rig.step("lead", "clean")
    with rig.store.read() as tx:
        states = [uploads.get_upload(tx, upload.upload_id, None).status for upload, _ in (fresh, old)]
    assert states == [UploadStatus.PENDING, UploadStatus.EXPIRED]
    assert [rig.objects.head(part.object_key) is not None for _, part in (fresh, old)] == [True, False]


def test_parts_that_an_ended_upload_left_are_swept(rig: Rig) -> None:
    with rig.store.write() as tx:
        team = add_team(tx)
        open_, ended = (_add_upload(tx, team.team_id, age=timedelta(0)) for _ in range(2))
        uploads.apply_upload_status(tx, ended[0].upload_id, from_=(UploadStatus.PENDING,), to=UploadStatus.CANCELLED)
    for _, part in (open_, ended):
        rig.objects.put(part.object_key, b"part")
    rig.step("lead", "clean")
    assert [rig.objects.head(part.object_key) is not None for _, part in (open_, ended)] == [True, False]
    with rig.store.read() as tx:
        assert uploads.list_leftover_parts(tx, 10) == []
        assert len(uploads.list_parts(tx, open_[0].upload_id)) == 1


def _add_upload(tx: WriteTx, team_id: str, *, age: timedelta) -> tuple[Upload, UploadPart]:
    """A pending upload that expired so long ago, with one part that came in time."""
    now = tx.now()
    upload = Upload(
        upload_id=new_upload_id(),
        team_id=team_id,
        created_at=now,
        expires_at=now + timedelta(hours=1),
        filename="big.jsonl",
        mime_type="text/jsonl",
        purpose=add_file(tx, team_id).purpose,
        size_bytes=4,
        status=UploadStatus.PENDING,
        file_id=None,
    )
    part_id = new_part_id()
    part = UploadPart(
        part_id=part_id,
        upload_id=upload.upload_id,
        created_at=now,
        size_bytes=4,
        object_key=upload_part_key(team_id, upload.upload_id, part_id),
    )
    uploads.insert_upload(tx, upload)
    uploads.insert_part(tx, part)
    return replace(upload, expires_at=now - age), part


@pytest.mark.parametrize("kill_at", range(6))
def test_killed_between_any_two_writes_the_rest_is_cleaned_by_the_next_pass(
    sqlite_url: str, sqlite_store: Store, objects: Objects, kill_at: int
) -> None:
    rig = Rig(sqlite_store, objects, ScriptedLauncher([cpu_device()]))
    job = _finished(rig, age=timedelta(days=91))
    switch = KillSwitch(kill_at)
    rig.store = FragileStore(sqlite_url, switch)
    rig.restart()
    for _ in range(6):
        try:
            rig.step("lead", "clean")
        except Killed:
            rig.restart()
    assert len(switch.passed) > kill_at
    assert _keys(rig, job) == ["adapter/adapter_model.safetensors"]
    with rig.store.read() as tx:
        assert logs.list_logs(tx, job.job_id) == []
