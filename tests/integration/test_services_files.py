"""Files against a real database and a real object store: what is stored, seen, refused and hidden."""

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta

import httpx2
import pytest

from orchestrator.domain.artifacts import FilePurpose, FileStatus
from orchestrator.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    ObjectsUnavailableError,
    TooLargeError,
)
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.objects.client import Objects
from orchestrator.objects.writer import PART_BYTES
from orchestrator.services.files import Files, clean_filename
from orchestrator.services.idempotency import Marks
from orchestrator.store import files as file_rows
from orchestrator.store import jobs
from orchestrator.store.session import Store
from tests.support.callers import as_role, make_caller
from tests.support.rows import add_file, add_job

ROW = {"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]}
GOOD = b"".join(
    json.dumps({"messages": [*ROW["messages"], *ROW["messages"]][: 2 + 2 * (n % 2)]}).encode() + b"\n" for n in range(3)
)


LONG_LINE = json.dumps(ROW).encode().replace(b"why?", b"why? " * 10_000) + b"\n"


@pytest.fixture
def files(sqlite_store: Store, objects: Objects) -> Files:
    return Files(store=sqlite_store, objects=objects, max_file_bytes=3 * PART_BYTES, presigned_seconds=60)


@pytest.fixture
def caller(sqlite_store: Store) -> Caller:
    return make_caller(sqlite_store)


def _create(files: Files, caller: Caller, data: bytes = GOOD, **options: object) -> str:
    values = {"filename": "tickets.jsonl", "purpose": "fine-tune", "chunks": [data], **options}
    return files.create(caller, **values).file_id  # type: ignore[arg-type]


def test_a_good_file_is_stored_checked_and_read_back(files: Files, caller: Caller, http: httpx2.Client) -> None:
    file_id = _create(files, caller, chunks=[GOOD[:10], b"", GOOD[10:]])
    file = files.get(caller, file_id)
    assert (file.status, file.status_details, file.purpose) == (FileStatus.PROCESSED, None, FilePurpose.FINE_TUNE)
    assert (file.size_bytes, file.sha256) == (len(GOOD), hashlib.sha256(GOOD).hexdigest())
    assert file.report is not None
    assert (file.report["rows"], file.report["valid"]) == (3, True)
    shown, chunks = files.content(caller, file_id)
    assert (shown, b"".join(chunks)) == (file, GOOD)
    answer = http.get(files.presign(caller, file_id))
    assert answer.content == GOOD
    assert "tickets.jsonl" in answer.headers["content-disposition"]


def test_a_file_of_several_parts_keeps_its_hash(files: Files, caller: Caller) -> None:
    line = LONG_LINE
    data = line * ((2 * PART_BYTES + 1000) // len(line))
    file = files.get(
        caller, _create(files, caller, chunks=(data[at : at + 99_999] for at in range(0, len(data), 99_999)))
    )
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert file.report is not None
    assert file.report["warnings"][0]["code"] == "duplicate_examples"
    assert b"".join(files.content(caller, file.file_id)[1]) == data


def test_a_broken_file_is_kept_with_its_first_problem(files: Files, caller: Caller) -> None:
    file = files.get(caller, _create(files, caller, GOOD + b"oops\n\n"))
    assert file.status is FileStatus.ERROR
    assert file.status_details is not None
    assert file.status_details.startswith("line 4: Expecting value (not_json)")
    assert file.report is not None
    assert [problem["line"] for problem in file.report["problems"]] == [4, 5]


def test_too_many_bytes_are_refused_early_and_leave_nothing(files: Files, caller: Caller, objects: Objects) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield LONG_LINE

    with pytest.raises(TooLargeError):
        _create(files, caller, chunks=endless())
    assert taken * len(LONG_LINE) <= files.max_file_bytes + len(LONG_LINE)
    assert not list(objects.list(""))
    assert not files.list(caller).items


def test_a_client_that_goes_away_leaves_nothing(files: Files, caller: Caller, objects: Objects) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * (PART_BYTES + 1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        _create(files, caller, chunks=broken())
    assert not list(objects.list(""))
    assert not files.list(caller).items


def test_only_data_sets_are_brought(files: Files, caller: Caller) -> None:
    for purpose in ("assistants", "fine-tune-results", ""):
        with pytest.raises(InvalidRequestError) as caught:
            _create(files, caller, purpose=purpose)
        assert (caught.value.code, caught.value.param) == ("unsupported_purpose", "purpose")


HOSTILE_NAMES = ["../../etc/passwd", "a\x00b.jsonl", "\u202egpj.exe", "\ud800", "x" * 5000, "", "CON"]
HOSTILE_NAMES += [";rm -rf", "%2e%2e/", "ü.jsonl", '"; filename="x', "\r\nX-Evil: 1"]


def test_a_hostile_name_is_text_and_no_key(store: Store, objects: Objects, http: httpx2.Client) -> None:
    files = Files(store=store, objects=objects, max_file_bytes=1000, presigned_seconds=60)
    caller = make_caller(store)
    for name in HOSTILE_NAMES:
        file = files.get(caller, _create(files, caller, filename=name))
        assert file.filename == clean_filename(name)
        assert 0 < len(file.filename) <= 255
        assert file.object_key == f"teams/{caller.team_id}/files/{file.file_id}"
        assert [item.key for item in objects.list("")] == [file.object_key]
        answer = http.get(files.presign(caller, file.file_id))
        assert answer.content == GOOD
        assert "x-evil" not in answer.headers
        objects.delete(file.object_key)


def test_an_expiry_is_counted_from_the_creation(files: Files, caller: Caller, objects: Objects) -> None:
    asked_after: list[bool] = []
    chunks = iter([GOOD])

    def seconds() -> int:
        asked_after.append(next(chunks, None) is None)
        return 3600

    file = files.get(caller, _create(files, caller, chunks=chunks, expires_after_seconds=seconds))
    assert file.expires_at == file.created_at + timedelta(hours=1)
    assert asked_after == [True]
    for wrong in (3599, 2_592_001, 0, -1):
        with pytest.raises(InvalidRequestError) as caught:
            _create(files, caller, expires_after_seconds=wrong)
        assert caught.value.param == "expires_after[seconds]"
    assert [item.key for item in objects.list("")] == [file.object_key]


def test_an_expired_file_is_not_there(files: Files, caller: Caller, sqlite_store: Store) -> None:
    with sqlite_store.write() as tx:
        old = add_file(tx, caller.team_id, expires_at=tx.now() - timedelta(seconds=1))
    with pytest.raises(NotFoundError):
        files.get(caller, old.file_id)


def test_a_deleted_file_is_gone_at_once_and_its_bytes_later(
    files: Files, caller: Caller, sqlite_store: Store, objects: Objects
) -> None:
    file = files.get(caller, _create(files, caller))
    files.delete(caller, file.file_id)
    for call in (files.get, files.delete, files.content, files.presign):
        with pytest.raises(NotFoundError):
            call(caller, file.file_id)
    assert not files.list(caller).items
    assert objects.head(file.object_key) is not None
    with sqlite_store.read() as tx:
        assert [left.file_id for left in file_rows.list_expired_or_deleted(tx, 10)] == [file.file_id]


def test_a_retry_after_the_same_file_was_deleted_brings_it_again(files: Files, caller: Caller) -> None:
    first = _create(files, caller)
    files.delete(caller, first)
    again = _create(files, caller, marks=Marks(retries=1))
    assert again != first
    assert files.get(caller, again).file_id == again
    assert _create(files, caller, marks=Marks(retries=1)) == again


def test_a_file_in_use_stays_until_the_job_ends(files: Files, caller: Caller, sqlite_store: Store) -> None:
    training, validation = _create(files, caller), _create(files, caller)
    with sqlite_store.write() as tx:
        job = add_job(tx, caller.team_id, training_file=training, validation_file=validation)
    for file_id in (training, validation):
        with pytest.raises(ConflictError) as caught:
            files.delete(caller, file_id)
        assert caught.value.code == "file_in_use"
    with sqlite_store.write() as tx:
        jobs.apply_job_transition(tx, job.job_id, JobState.CANCELLED, message="Cancelled.")
    files.delete(caller, training)
    files.delete(caller, validation)


def test_a_team_never_meets_anothers_files(files: Files, caller: Caller, sqlite_store: Store) -> None:
    other, admin = make_caller(sqlite_store), make_caller(sqlite_store, Role.ADMIN)
    file_id = _create(files, caller)
    for call in (files.get, files.delete, files.content, files.presign):
        with pytest.raises(NotFoundError) as theirs:
            call(other, file_id)
        with pytest.raises(NotFoundError) as nobodys:
            call(other, "file-0")
        assert theirs.value.message.replace(file_id, "file-0") == nobodys.value.message
    assert not files.list(other).items
    with pytest.raises(InvalidRequestError):
        files.list(other, after=file_id)
    assert files.get(admin, file_id).file_id == file_id
    assert [file.file_id for file in files.list(admin).items] == [file_id]


def test_a_viewer_reads_only(files: Files, caller: Caller, objects: Objects) -> None:
    file_id = _create(files, caller)
    viewer = as_role(caller, Role.VIEWER)
    with pytest.raises(ForbiddenError):
        _create(files, viewer)
    with pytest.raises(ForbiddenError):
        files.delete(viewer, file_id)
    assert files.get(viewer, file_id).file_id == file_id
    assert len(list(objects.list(""))) == 1


def test_pages_and_purposes(files: Files, caller: Caller, sqlite_store: Store) -> None:
    made = [_create(files, caller) for _ in range(3)]
    with sqlite_store.write() as tx:
        results = add_file(tx, caller.team_id, purpose=FilePurpose.RESULTS).file_id
    page = files.list(caller, purpose="fine-tune", limit=2)
    assert ([file.file_id for file in page.items], page.has_more) == ([made[2], made[1]], True)
    page = files.list(caller, purpose="fine-tune", limit=2, after=made[1])
    assert ([file.file_id for file in page.items], page.has_more) == ([made[0]], False)
    assert [file.file_id for file in files.list(caller, descending=False).items] == [*made, results]
    assert [file.file_id for file in files.list(caller, purpose="fine-tune-results").items] == [results]
    assert not files.list(caller, purpose="batch").items


def test_damaged_or_missing_bytes_are_never_served_as_whole(files: Files, caller: Caller, objects: Objects) -> None:
    file = files.get(caller, _create(files, caller))
    for damaged in (GOOD[:-1] + b" ", GOOD[:-1], GOOD + b"x"):
        objects.put(file.object_key, damaged)
        with pytest.raises(ObjectsUnavailableError) as caught:
            b"".join(files.content(caller, file.file_id)[1])
        assert caught.value.code == "object_damaged"
    objects.delete(file.object_key)
    with pytest.raises(NotFoundError) as missing:
        files.content(caller, file.file_id)
    assert missing.value.code == "object_missing"
