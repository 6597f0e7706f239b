"""Uploads in parts: composed in order, checked, repeatable, and nobody else's."""

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.artifacts import File, FileStatus, Upload, UploadStatus
from orchestrator.domain.errors import (
    ForbiddenError,
    IllegalTransitionError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
)
from orchestrator.domain.teams import Caller, Role
from orchestrator.objects.client import Objects
from orchestrator.services import uploads as uploads_module
from orchestrator.services.uploads import Uploads
from orchestrator.store import uploads as upload_rows
from orchestrator.store.session import Store
from tests.support.callers import as_role, make_caller

ROW = {"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]}
DATA = b"".join(json.dumps({**ROW, "parallel_tool_calls": bool(n % 2)}).encode() + b" " * n + b"\n" for n in range(40))
PIECES = [DATA[:100], DATA[100:1500], DATA[1500:]]


@pytest.fixture
def uploads(store: Store, objects: Objects) -> Uploads:
    return Uploads(store=store, objects=objects, max_upload_bytes=100_000)


@pytest.fixture
def caller(store: Store) -> Caller:
    return make_caller(store)


def _create(uploads: Uploads, caller: Caller, **options: Any) -> Upload:
    values = {"filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", "size_bytes": len(DATA)}
    return uploads.create(caller, **{**values, **options})


def _add_all(uploads: Uploads, caller: Caller, upload: Upload) -> list[str]:
    return [uploads.add_part(caller, upload.upload_id, [piece]).part_id for piece in PIECES]


def _keys(objects: Objects) -> list[str]:
    return [item.key for item in objects.list("")]


def test_parts_in_any_order_become_one_file(uploads: Uploads, caller: Caller, objects: Objects) -> None:
    upload = _create(uploads, caller)
    assert upload.status is UploadStatus.PENDING
    assert upload.expires_at == upload.created_at + timedelta(hours=1)
    assert uploads.get(caller, upload.upload_id) == (upload, None)
    with ThreadPoolExecutor(3) as pool:
        sent = list(pool.map(lambda piece: uploads.add_part(caller, upload.upload_id, [piece]), reversed(PIECES)))
    part_ids = [part.part_id for part in reversed(sent)]
    md5 = hashlib.md5(DATA).hexdigest().upper()
    done, file = uploads.complete(caller, upload.upload_id, part_ids, md5=md5)
    assert (done.status, done.file_id) == (UploadStatus.COMPLETED, file.file_id)
    assert (file.size_bytes, file.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert (file.status, file.filename, file.expires_at) == (FileStatus.PROCESSED, "big.jsonl", None)
    assert objects.get(file.object_key) == DATA
    assert _keys(objects) == [file.object_key]
    assert uploads.get(caller, upload.upload_id) == (done, file)


def test_completing_again_gives_the_same_file(uploads: Uploads, caller: Caller, objects: Objects) -> None:
    upload = _create(uploads, caller, expires_after_seconds=7200)
    part_ids = _add_all(uploads, caller, upload)
    first = uploads.complete(caller, upload.upload_id, part_ids)
    assert first[1].expires_at == first[1].created_at + timedelta(hours=2)
    assert uploads.complete(caller, upload.upload_id, part_ids) == first
    assert _keys(objects) == [first[1].object_key]


def test_completing_at_the_same_time_makes_one_file(uploads: Uploads, caller: Caller, objects: Objects) -> None:
    upload = _create(uploads, caller)
    part_ids = _add_all(uploads, caller, upload)
    start = threading.Barrier(4)

    def complete(_: int) -> File:
        start.wait()
        return uploads.complete(caller, upload.upload_id, part_ids)[1]

    with ThreadPoolExecutor(4) as pool:
        made = {file.file_id: file.object_key for file in pool.map(complete, range(4))}
    assert len(made) == 1
    assert _keys(objects) == list(made.values())


@pytest.mark.parametrize(
    ("choose", "code"),
    [
        (lambda parts: parts[:2], "size_mismatch"),
        (lambda parts: [parts[0], parts[0], parts[1], parts[2]], "duplicate_part"),
        (lambda parts: [*parts, "part_0"], "unknown_part"),
        (lambda parts: [], "size_mismatch"),
    ],
)
def test_wrong_parts_are_refused_and_the_upload_stays_open(
    uploads: Uploads, caller: Caller, choose: Any, code: str
) -> None:
    upload = _create(uploads, caller)
    part_ids = _add_all(uploads, caller, upload)
    with pytest.raises(InvalidRequestError) as caught:
        uploads.complete(caller, upload.upload_id, choose(part_ids))
    assert (caught.value.code, caught.value.param) == (code, "part_ids")
    assert uploads.complete(caller, upload.upload_id, part_ids)[1].size_bytes == len(DATA)


def test_another_order_is_seen_by_the_md5(uploads: Uploads, caller: Caller, objects: Objects) -> None:
    upload = _create(uploads, caller)
    part_ids = _add_all(uploads, caller, upload)
    md5 = hashlib.md5(DATA).hexdigest()
    with pytest.raises(InvalidRequestError) as caught:
        uploads.complete(caller, upload.upload_id, part_ids[::-1], md5=md5)
    assert caught.value.code == "md5_mismatch"
    assert len(_keys(objects)) == len(PIECES)
    assert uploads.complete(caller, upload.upload_id, part_ids, md5=md5)[1].sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_broken_data_set_becomes_a_file_with_its_problems(uploads: Uploads, caller: Caller) -> None:
    upload = _create(uploads, caller, size_bytes=5)
    part = uploads.add_part(caller, upload.upload_id, [b"oops", b"\n"])
    file = uploads.complete(caller, upload.upload_id, [part.part_id])[1]
    assert file.status is FileStatus.ERROR
    assert file.report is not None
    assert file.report["problem_counts"] == {"not_json": 1}


def test_a_cancelled_upload_is_over(uploads: Uploads, caller: Caller, objects: Objects) -> None:
    upload = _create(uploads, caller)
    part_ids = _add_all(uploads, caller, upload)
    assert uploads.cancel(caller, upload.upload_id).status is UploadStatus.CANCELLED
    assert uploads.cancel(caller, upload.upload_id).status is UploadStatus.CANCELLED
    assert _keys(objects) == []
    with pytest.raises(IllegalTransitionError, match="cancelled"):
        uploads.complete(caller, upload.upload_id, part_ids)
    with pytest.raises(IllegalTransitionError, match="cancelled"):
        uploads.add_part(caller, upload.upload_id, [b"x"])
    assert _keys(objects) == []


def test_a_completed_upload_takes_no_part_and_no_cancel(uploads: Uploads, caller: Caller, objects: Objects) -> None:
    upload = _create(uploads, caller)
    file = uploads.complete(caller, upload.upload_id, _add_all(uploads, caller, upload))[1]
    with pytest.raises(IllegalTransitionError, match="completed"):
        uploads.add_part(caller, upload.upload_id, [b"x"])
    with pytest.raises(IllegalTransitionError, match="completed"):
        uploads.cancel(caller, upload.upload_id)
    assert _keys(objects) == [file.object_key]


def test_a_part_that_comes_while_the_upload_is_cancelled_leaves_nothing(
    uploads: Uploads, caller: Caller, objects: Objects
) -> None:
    upload = _create(uploads, caller)

    def late() -> Iterator[bytes]:
        yield b"half"
        uploads.cancel(caller, upload.upload_id)
        yield b"half"

    with pytest.raises(IllegalTransitionError):
        uploads.add_part(caller, upload.upload_id, late())
    assert _keys(objects) == []


def test_an_expired_upload_says_so_before_anybody_wrote_it_down(
    uploads: Uploads, caller: Caller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_module, "UPLOAD_SECONDS", -1)
    upload = _create(uploads, caller)
    assert uploads.get(caller, upload.upload_id)[0].status is UploadStatus.EXPIRED
    for call in (
        lambda: uploads.add_part(caller, upload.upload_id, [b"x"]),
        lambda: uploads.complete(caller, upload.upload_id, []),
        lambda: uploads.cancel(caller, upload.upload_id),
    ):
        with pytest.raises(IllegalTransitionError, match="expired"):
            call()


def test_sizes_are_limited(uploads: Uploads, caller: Caller, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (100_001, 0, -5):
        with pytest.raises((TooLargeError, InvalidRequestError)) as caught:
            _create(uploads, caller, size_bytes=size)
        assert caught.value.param == "bytes"
    monkeypatch.setattr(uploads_module, "MAX_PART_BYTES", 1000)
    monkeypatch.setattr(uploads_module, "MAX_PARTS", 3)
    upload = _create(uploads, caller, size_bytes=10)
    with pytest.raises(TooLargeError):
        uploads.add_part(caller, upload.upload_id, [b"x" * 600, b"x" * 401])
    with pytest.raises(InvalidRequestError, match="empty"):
        uploads.add_part(caller, upload.upload_id, [b""])
    assert _keys(objects) == []
    uploads.add_part(caller, upload.upload_id, [b"x" * 1000])
    with pytest.raises(TooLargeError):
        uploads.add_part(caller, upload.upload_id, [b"x" * 21])
    uploads.add_part(caller, upload.upload_id, [b"x" * 10])
    uploads.add_part(caller, upload.upload_id, [b"x" * 10])
    with pytest.raises(TooLargeError, match="at most 3 parts"):
        uploads.add_part(caller, upload.upload_id, [b""])


def test_a_team_never_meets_anothers_uploads(uploads: Uploads, caller: Caller, store: Store) -> None:
    thief = make_caller(store)
    upload = _create(uploads, caller)
    part_ids = _add_all(uploads, caller, upload)
    for call in (
        lambda: uploads.get(thief, upload.upload_id),
        lambda: uploads.add_part(thief, upload.upload_id, [b"x"]),
        lambda: uploads.complete(thief, upload.upload_id, part_ids),
        lambda: uploads.cancel(thief, upload.upload_id),
    ):
        with pytest.raises(NotFoundError):
            call()
    own = _create(uploads, thief)
    with pytest.raises(InvalidRequestError) as caught:
        uploads.complete(thief, own.upload_id, part_ids)
    assert caught.value.code == "unknown_part"
    admin = as_role(thief, Role.ADMIN)
    assert uploads.complete(admin, upload.upload_id, part_ids)[1].team_id == caller.team_id


def test_a_viewer_reads_only(uploads: Uploads, caller: Caller) -> None:
    upload = _create(uploads, caller)
    viewer = as_role(caller, Role.VIEWER)
    for call in (
        lambda: _create(uploads, viewer),
        lambda: uploads.add_part(viewer, upload.upload_id, [b"x"]),
        lambda: uploads.complete(viewer, upload.upload_id, []),
        lambda: uploads.cancel(viewer, upload.upload_id),
    ):
        with pytest.raises(ForbiddenError):
            call()
    assert uploads.get(viewer, upload.upload_id)[0] == upload


def test_parts_that_nobody_freed_are_found_by_their_rows(uploads: Uploads, caller: Caller, store: Store) -> None:
    upload = _create(uploads, caller)
    part_ids = _add_all(uploads, caller, upload)
    with store.write() as tx:
        assert upload_rows.list_leftover_parts(tx, 10) == []
        upload_rows.apply_upload_status(tx, upload.upload_id, from_=(UploadStatus.PENDING,), to=UploadStatus.CANCELLED)
        assert {part.part_id for part in upload_rows.list_leftover_parts(tx, 10)} == set(part_ids)
        for part_id in part_ids:
            upload_rows.delete_part(tx, part_id)
        assert upload_rows.list_leftover_parts(tx, 10) == []
