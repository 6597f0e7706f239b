"""What belongs to teams, on both engines: keys, files, uploads, adapters, and answers to repeated requests."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.domain import outcomes
from orchestrator.domain.artifacts import Adapter, FilePurpose, FileStatus, Upload, UploadPart, UploadStatus
from orchestrator.domain.errors import ConflictError, IllegalTransitionError, InvalidRequestError, NotFoundError
from orchestrator.domain.ids import new_job_id, new_part_id, new_upload_id
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.domain.teams import Role
from orchestrator.store import adapters, attempts, files, idempotency, jobs, keys, teams, uploads
from orchestrator.store.idempotency import IdempotencyRecord
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store, WriteTx
from tests.support import rows
from tests.support.threads import run_together

MINUTE = timedelta(minutes=1)


def test_teams_are_found_by_id_and_by_name(store: Store) -> None:
    with store.write() as tx:
        beta, alpha = rows.add_team(tx, "beta"), rows.add_team(tx, "alpha")
        assert teams.list_teams(tx) == [alpha, beta]
        assert teams.find_team_by_name(tx, "beta") == teams.get_team(tx, beta.team_id) == beta
        assert teams.find_team_by_name(tx, "gamma") is None
        with pytest.raises(NotFoundError):
            teams.get_team(tx, "team-none")


def test_keys_are_found_by_secret_and_stay_within_their_team(store: Store) -> None:
    with store.write() as tx:
        team, other = rows.add_team(tx), rows.add_team(tx)
        key = keys.insert_key(
            tx,
            team_id=team.team_id,
            name="ci",
            role=Role.VIEWER,
            prefix="tp-1",
            secret_sha256="aa",
            expires_at=tx.now(),
        )
        foreign = rows.add_key(tx, other.team_id)
        assert keys.find_key(tx, "aa") == key
        assert keys.find_key(tx, "bb") is None
        assert keys.list_keys(tx, team.team_id) == [key]
        assert (len(keys.list_keys(tx, None)), keys.count_keys(tx)) == (2, 2)
        assert keys.get_key(tx, key.key_id, None) == key
        for act in (keys.get_key, keys.revoke_key):
            with pytest.raises(NotFoundError):
                act(tx, foreign.key_id, team.team_id)
        revoked = keys.revoke_key(tx, key.key_id, team.team_id)
    assert (key.role, revoked.revoked_at is not None) == (Role.VIEWER, True)
    with store.write() as tx:
        assert keys.revoke_key(tx, key.key_id, None) == revoked


def test_secret_belongs_to_one_key(store: Store) -> None:
    def insert_twice() -> None:
        with store.write() as tx:
            team = rows.add_team(tx)
            for _ in range(2):
                keys.insert_key(
                    tx, team_id=team.team_id, name="", role=Role.ADMIN, prefix="", secret_sha256="aa", expires_at=None
                )

    with pytest.raises(ConflictError):
        insert_twice()


def test_use_of_a_key_is_noted_once_a_minute(store: Store) -> None:
    with store.write() as tx:
        key = rows.add_key(tx, rows.add_team(tx).team_id)
        assert keys.needs_use_recorded(key, tx.now())
        keys.record_key_used(tx, key.key_id)
        used = keys.get_key(tx, key.key_id, None)
        now = tx.now()
    with store.write() as tx:
        keys.record_key_used(tx, key.key_id)
        assert keys.get_key(tx, key.key_id, None) == used
    assert used.last_used_at == now
    assert not keys.needs_use_recorded(used, now + MINUTE)
    assert keys.needs_use_recorded(used, now + 2 * MINUTE)


def test_files_stay_within_their_team(store: Store) -> None:
    with store.write() as tx:
        team, other = rows.add_team(tx), rows.add_team(tx)
        file = rows.add_file(tx, team.team_id, filename="../ü.jsonl", report={"rows": 3})
        foreign = rows.add_file(tx, other.team_id)
        assert files.get_file(tx, file.file_id, team.team_id) == files.get_file(tx, file.file_id, None) == file
        assert files.find_file(tx, foreign.file_id, team.team_id) is None
        assert files.list_files(tx, team_id=team.team_id).items == (file,)
        assert files.list_files(tx, team_id=None).items == (foreign, file)
        with pytest.raises(NotFoundError):
            files.mark_file_deleted(tx, foreign.file_id, team.team_id)
        with pytest.raises(InvalidRequestError) as caught:
            files.list_files(tx, team_id=team.team_id, after=foreign.file_id)
        assert caught.value.param == "after"


def test_files_are_listed_by_purpose_in_either_order(store: Store) -> None:
    with store.write() as tx:
        team_id = rows.add_team(tx).team_id
        data = [rows.add_file(tx, team_id) for _ in range(3)]
        results = rows.add_file(tx, team_id, purpose=FilePurpose.RESULTS)
        listed = files.list_files(tx, team_id=team_id, purpose=FilePurpose.FINE_TUNE, descending=False)
        assert listed.items == tuple(data)
        page = files.list_files(tx, team_id=team_id, limit=2, after=results.file_id)
        assert (page.items, page.has_more) == ((data[2], data[1]), True)


def test_deleted_and_expired_files_are_gone_at_once_and_swept_later(store: Store) -> None:
    with store.write() as tx:
        team_id = rows.add_team(tx).team_id
        kept, deleted = rows.add_file(tx, team_id), rows.add_file(tx, team_id)
        expired = rows.add_file(tx, team_id, expires_at=tx.now() - MINUTE)
        files.mark_file_deleted(tx, deleted.file_id, team_id)
        for file in (deleted, expired):
            with pytest.raises(NotFoundError):
                files.get_file(tx, file.file_id, None)
            with pytest.raises(NotFoundError):
                files.mark_file_deleted(tx, file.file_id)
        assert files.list_files(tx, team_id=team_id).items == (kept,)
        swept = files.list_expired_or_deleted(tx, 10)
        assert {file.file_id for file in swept} == {deleted.file_id, expired.file_id}
        for file in (*swept, *swept):
            files.delete_file_row(tx, file.file_id)
        assert files.list_expired_or_deleted(tx, 10) == []


def test_file_of_an_unfinished_job_is_neither_deleted_nor_swept(store: Store) -> None:
    with store.write() as tx:
        team_id = rows.add_team(tx).team_id
        training = rows.add_file(tx, team_id)
        soon = rows.add_file(tx, team_id, expires_at=tx.now() + timedelta(milliseconds=1))
        job = rows.add_job(tx, team_id, training_file=training.file_id, validation_file=soon.file_id)
    with store.write() as tx:
        assert [files.count_jobs_using(tx, file.file_id) for file in (training, soon)] == [1, 1]
        with pytest.raises(ConflictError) as caught:
            files.mark_file_deleted(tx, training.file_id)
        assert caught.value.code == "file_in_use"
        assert files.list_expired_or_deleted(tx, 10) == []
        jobs.apply_job_transition(tx, job.job_id, JobState.CANCELLED, message="Cancelled.")
        files.mark_file_deleted(tx, training.file_id)
        assert len(files.list_expired_or_deleted(tx, 10)) == 2


def test_report_of_a_file_is_kept(store: Store) -> None:
    with store.write() as tx:
        file = rows.add_file(tx, rows.add_team(tx).team_id)
        files.record_file_report(
            tx, file.file_id, status=FileStatus.ERROR, status_details="Line 3.", report={"problems": [3]}
        )
        found = files.get_file(tx, file.file_id, None)
    assert (found.status, found.status_details, found.report) == (FileStatus.ERROR, "Line 3.", {"problems": [3]})


def make_upload(tx: WriteTx, team_id: str, *, lives: timedelta = MINUTE) -> Upload:
    return Upload(
        upload_id=new_upload_id(),
        team_id=team_id,
        created_at=tx.now(),
        expires_at=tx.now() + lives,
        filename="big.jsonl",
        mime_type="application/jsonl",
        purpose=FilePurpose.FINE_TUNE,
        size_bytes=10,
        status=UploadStatus.PENDING,
        file_id=None,
    )


def make_part(tx: WriteTx, upload: Upload) -> UploadPart:
    part_id = new_part_id()
    return UploadPart(
        part_id=part_id, upload_id=upload.upload_id, created_at=tx.now(), size_bytes=5, object_key=f"p/{part_id}"
    )


def test_upload_collects_parts_until_it_ends(store: Store) -> None:
    with store.write() as tx:
        team, other = rows.add_team(tx), rows.add_team(tx)
        upload = uploads.insert_upload(tx, make_upload(tx, team.team_id))
        assert uploads.get_upload(tx, upload.upload_id, team.team_id) == upload
        with pytest.raises(NotFoundError):
            uploads.get_upload(tx, upload.upload_id, other.team_id)
        parts = [uploads.insert_part(tx, make_part(tx, upload)) for _ in range(3)]
        assert uploads.list_parts(tx, upload.upload_id) == parts
        pending = (UploadStatus.PENDING,)
        done = uploads.apply_upload_status(
            tx, upload.upload_id, from_=pending, to=UploadStatus.COMPLETED, file_id="file-1"
        )
        assert done == replace(upload, status=UploadStatus.COMPLETED, file_id="file-1")
        with pytest.raises(IllegalTransitionError):
            uploads.apply_upload_status(tx, upload.upload_id, from_=pending, to=UploadStatus.CANCELLED)
        with pytest.raises(IllegalTransitionError):
            uploads.insert_part(tx, make_part(tx, upload))


def test_expired_upload_takes_no_part(store: Store) -> None:
    with store.write() as tx:
        team_id = rows.add_team(tx).team_id
        live = uploads.insert_upload(tx, make_upload(tx, team_id))
        late = uploads.insert_upload(tx, make_upload(tx, team_id, lives=-MINUTE))
        with pytest.raises(IllegalTransitionError):
            uploads.insert_part(tx, make_part(tx, late))
        assert uploads.list_expired(tx) == [late]
        uploads.insert_part(tx, make_part(tx, live))


def publish(tx: WriteTx, team_id: str) -> Adapter:
    attempt = rows.add_running_attempt(tx, rows.add_queued_job(tx, team_id))
    token = attempt.lease_token
    attempts.apply_attempt_transition(tx, attempt.attempt_id, token, AttemptState.VERIFYING)
    adapter = adapters.insert_adapter(tx, rows.make_adapter(attempt, created_at=tx.now()))
    attempts.end_attempt(tx, attempt.attempt_id, token, outcomes.succeeded(), ended_at=tx.now())
    return adapter


def test_adapters_stay_within_their_team_and_vanish_when_deleted(store: Store) -> None:
    with store.write() as tx:
        team_id, other_id = rows.add_team(tx).team_id, rows.add_team(tx).team_id
        first, foreign, second = (publish(tx, owner) for owner in (team_id, other_id, team_id))
        assert adapters.get_adapter(tx, first.adapter_id, team_id) == first
        assert adapters.find_adapter_by_name(tx, second.name, team_id) == second
        assert adapters.find_adapter_by_name(tx, foreign.name, team_id) is None
        assert adapters.list_adapters(tx, team_id).items == (second, first)
        assert adapters.list_adapters(tx, None, limit=2).has_more
        assert adapters.list_adapters_of(tx, [first.job_id, "x"]) == {first.job_id: first}
        for act in (adapters.get_adapter, adapters.mark_deleted):
            with pytest.raises(NotFoundError):
                act(tx, foreign.adapter_id, team_id)
        assert adapters.mark_deleted(tx, first.adapter_id, team_id) == first
        with pytest.raises(NotFoundError):
            adapters.mark_deleted(tx, first.adapter_id, team_id)
        assert adapters.list_adapters(tx, team_id).items == (second,)
        assert adapters.list_deleted(tx, 10) == [first]
        adapters.delete_adapter_row(tx, second.adapter_id)
        adapters.delete_adapter_row(tx, first.adapter_id)
        assert (adapters.list_deleted(tx, 10), adapters.list_adapters(tx, team_id).items) == ([], (second,))


def test_adapter_cannot_be_given_to_another_team(store: Store) -> None:
    """The database itself holds the job, its attempt and its team together."""
    with store.write() as tx:
        attempt, other = rows.add_running_attempt(tx), rows.add_team(tx)

    def steal() -> None:
        with store.write() as tx:
            adapters.insert_adapter(tx, replace(rows.make_adapter(attempt, created_at=tx.now()), team_id=other.team_id))

    with pytest.raises(ConflictError):
        steal()


def test_fifty_requests_with_one_key_do_the_work_once(store: Store) -> None:
    with store.write() as tx:
        team_id = rows.add_team(tx).team_id
        key_id, file_id = rows.add_key(tx, team_id).key_id, rows.add_file(tx, team_id).file_id
    named = {"key_id": key_id, "scope": "POST /v1/fine_tuning/jobs", "idempotency_key": "abc"}

    def submit() -> str:
        with store.write() as tx:
            record = IdempotencyRecord(**named, fingerprint="f", created_at=tx.now(), object_id=new_job_id())
            earlier = idempotency.record_request(tx, record)
            if earlier is None:
                rows.add_job(tx, team_id, job_id=record.object_id, training_file=file_id)
            return (earlier or record).object_id

    results = run_together([submit] * 50)
    with store.read() as tx:
        (job,) = list_jobs(tx, JobFilter(), limit=100).items
        found = idempotency.find_record(tx, **named)
    assert set(results) == {job.job_id}
    assert found is not None
    assert (found.object_id, found.fingerprint) == (job.job_id, "f")


def test_records_are_found_again_and_forgotten(store: Store) -> None:
    with store.write() as tx:
        key_id = rows.add_key(tx, rows.add_team(tx).team_id).key_id
        named = {"key_id": key_id, "scope": "s", "idempotency_key": "one"}
        first = IdempotencyRecord(**named, fingerprint="f", created_at=tx.now(), object_id="job-1")
        assert idempotency.record_request(tx, first) is None
        assert idempotency.record_request(tx, replace(first, fingerprint="other", object_id="job-2")) == first
        find = {"key_id": key_id, "scope": "s", "fingerprint": "f"}
        assert idempotency.find_recent_by_fingerprint(tx, **find, since=tx.now() - MINUTE) == first
        assert idempotency.find_recent_by_fingerprint(tx, **find, since=tx.now() + MINUTE) is None
        assert idempotency.delete_older(tx, tx.now()) == 0
        assert idempotency.delete_older(tx, tx.now() + MINUTE) == 1
        assert idempotency.find_record(tx, **named) is None
