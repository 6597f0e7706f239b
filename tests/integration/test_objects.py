"""The object store client against a real S3 server: what is visible when, and who may do what."""

import hashlib
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import pytest

from orchestrator.domain.errors import NotFoundError, ObjectsUnavailableError
from orchestrator.domain.protocol import UploadGrant
from orchestrator.objects import client
from orchestrator.objects.client import Objects
from orchestrator.objects.writer import PART_BYTES
from tests.support.storage import REGION, StorageServer

MEBIBYTE = 1024**2


def _random_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _post(http: httpx2.Client, grant: UploadGrant, key: str, body: bytes, **changed: str) -> httpx2.Response:
    fields = {**grant.fields, "key": key, **changed}
    return http.post(grant.url, data=fields, files={"file": ("blob", body)})


def test_an_object_comes_back_as_it_was_put(objects: Objects) -> None:
    objects.put("a/b", b"one")
    objects.put("a/b", b"two")
    assert objects.get("a/b") == b"two"
    assert objects.get("a/b", start=1, length=1) == b"w"
    assert objects.get("a/b", start=1, length=100) == b"wo"
    info = objects.head("a/b")
    assert info is not None
    assert (info.size_bytes, info.etag) == (3, hashlib.md5(b"two").hexdigest())


def test_what_is_not_there_is_none_or_not_found(objects: Objects) -> None:
    assert objects.head("nothing") is None
    for read in (objects.get, objects.stream):
        with pytest.raises(NotFoundError) as caught:
            read("nothing")
        assert caught.value.code == "object_missing"


def test_listing_and_deleting_keep_to_the_prefix(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DELETE_BATCH", 50)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: objects.put(f"jobs/1/{number:04d}", b"x"), range(120)))
    objects.put("jobs/10/a", b"yy")
    assert [item.key for item in objects.list("jobs/1/")] == [f"jobs/1/{number:04d}" for number in range(120)]
    assert objects.delete_prefix("jobs/1/") == 120
    assert objects.delete_prefix("jobs/1/") == 0
    assert list(objects.list("jobs/")) == [("jobs/10/a", 2)]
    objects.delete("jobs/10/a")
    objects.delete("jobs/10/a")
    assert list(objects.list("")) == []


@pytest.mark.parametrize("prefix", ["", "/", "jobs", "/jobs/"])
def test_only_a_folder_can_be_deleted_whole(objects: Objects, prefix: str) -> None:
    with pytest.raises(ValueError, match="no folder"):
        objects.delete_prefix(prefix)


def test_put_if_absent_has_one_winner(objects: Objects) -> None:
    for turn in range(3):
        start = threading.Barrier(6)

        def write(number: int, turn: int = turn, start: threading.Barrier = start) -> bool:
            start.wait()
            return objects.put_if_absent(f"race/{turn}", f"writer {number}".encode())

        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(write, range(6)))
        assert won.count(True) == 1
        assert objects.get(f"race/{turn}") == f"writer {won.index(True)}".encode()


def test_put_if_absent_never_replaces(objects: Objects) -> None:
    objects.put("taken", b"first")
    assert not objects.put_if_absent("taken", b"second")
    assert objects.get("taken") == b"first"


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 12345])
def test_a_stream_is_written_whole_and_hashed(objects: Objects, size: int) -> None:
    body = _random_bytes(size)
    with objects.open_upload("stream") as writer:
        for at in range(0, size, 300_000):
            writer.write(body[at : at + 300_000])
        assert objects.head("stream") is None
        written = writer.finish()
    assert (written.size_bytes, written.sha256) == (size, hashlib.sha256(body).hexdigest())
    info = objects.head("stream")
    assert info is not None
    assert info.etag == written.etag
    assert b"".join(objects.stream("stream")) == body
    assert b"".join(objects.stream("stream", max(0, size - 7))) == body[max(0, size - 7) :]


def test_an_unfinished_stream_leaves_nothing(objects: Objects, storage_server: StorageServer) -> None:
    def write(*, fail: bool) -> None:
        with objects.open_upload("torn") as writer:
            writer.write(_random_bytes(PART_BYTES + 10))
            if fail:
                raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError, match="went away"):
        write(fail=True)
    write(fail=False)
    assert objects.head("torn") is None
    assert not storage_server.open_client().list_multipart_uploads(Bucket=objects.bucket).get("Uploads")


def test_stale_uploads_are_dropped_and_young_ones_kept(objects: Objects, storage_server: StorageServer) -> None:
    server = storage_server.open_client()
    server.create_multipart_upload(Bucket=objects.bucket, Key="left")
    assert objects.abort_stale_uploads(older_than_seconds=3600) == 0
    assert objects.abort_stale_uploads(older_than_seconds=-5) == 1
    assert not server.list_multipart_uploads(Bucket=objects.bucket).get("Uploads")


def test_a_reader_goes_on_after_the_connection_breaks(objects: Objects) -> None:
    body = _random_bytes(5 * MEBIBYTE)
    objects.put("long", body)
    stream = objects.stream("long")
    read = next(stream)
    stream._body.close()  # what a broken connection does to the next read
    assert read + b"".join(stream) == body


def test_a_reader_never_mixes_two_versions(objects: Objects) -> None:
    objects.put("long", _random_bytes(5 * MEBIBYTE))
    stream = objects.stream("long")
    next(stream)
    objects.put("long", _random_bytes(5 * MEBIBYTE)[::-1])
    stream._body.close()
    with pytest.raises(ObjectsUnavailableError, match="replaced"):
        list(stream)


def test_a_presigned_url_reads_one_object_until_it_expires(objects: Objects, http: httpx2.Client) -> None:
    objects.put("mine", b"mine")
    objects.put("yours", b"yours")
    url = objects.presign_get("mine", 60, 'a "b"\r\nX-Evil: 1; ü/..\\c.jsonl')
    answer = http.get(url)
    assert answer.content == b"mine"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[A-Za-z0-9%._-]+", answer.headers["content-disposition"])
    assert "x-evil" not in answer.headers
    assert http.get(url.replace("/mine?", "/yours?")).status_code == 403
    assert http.get(url.split("?")[0]).status_code == 403
    assert http.put(url, content=b"other").status_code == 403
    assert http.get(objects.presign_get("mine", -1)).status_code in {400, 403}


def test_presigned_urls_name_the_public_endpoint(
    objects: Objects, storage_server: StorageServer, http: httpx2.Client
) -> None:
    keys = {"access_key": storage_server.access_key, "secret_key": storage_server.secret_key}
    public = storage_server.endpoint.replace("127.0.0.1", "localhost")
    other = Objects(storage_server.endpoint, REGION, bucket=objects.bucket, public_endpoint=public, **keys)
    other.put("mine", b"mine")
    assert urlsplit(other.presign_get("mine", 60)).hostname == "localhost"
    assert urlsplit(other.presign_post("p/", 60).url).hostname == "localhost"
    assert http.get(other.presign_get("mine", 60)).content == b"mine"
    other.close()


def test_a_grant_writes_below_its_prefix_only(objects: Objects, http: httpx2.Client) -> None:
    prefix = "jobs/j/attempts/0001-a/"
    grant = objects.presign_post(prefix, 60)
    assert abs(grant.expires_at_unix - time.time() - 60) < 5
    assert grant.key_prefix == prefix
    assert _post(http, grant, prefix + "adapter/x.bin", b"one").status_code == 204
    assert _post(http, grant, prefix + "adapter/x.bin", b"two").status_code == 204
    assert objects.get(prefix + "adapter/x.bin") == b"two"
    outside = ["jobs/j/attempts/0002-b/x", "x", prefix[:-1], prefix + "../0002-b/x", prefix + "%2e%2e/x/../../../y"]
    for key in outside:
        assert _post(http, grant, key, b"evil").status_code in {400, 403}, key
    assert [item.key for item in objects.list("")] == [prefix + "adapter/x.bin"]


def test_a_grant_cannot_be_stretched(objects: Objects, storage_server: StorageServer, http: httpx2.Client) -> None:
    grant = objects.presign_post("p/", 60, max_bytes=10)
    assert _post(http, grant, "p/a", b"x" * 11).status_code == 400
    assert _post(http, grant, "p/a", b"x", **{"x-amz-signature": "0" * 64}).status_code == 403
    assert _post(http, grant, "p/a", b"x", policy="e30=").status_code == 403
    assert _post(http, objects.presign_post("p/", -1), "p/a", b"x").status_code == 403
    unsigned = UploadGrant(url=grant.url, fields={}, key_prefix="p/", expires_at_unix=0)
    assert _post(http, unsigned, "p/a", b"x").status_code in {400, 403}
    other = storage_server.open_objects("readiness")
    elsewhere = grant.model_copy(update={"url": grant.url.replace(objects.bucket, other.bucket)})
    assert _post(http, elsewhere, "p/a", b"x").status_code == 403
    other.close()
    assert list(objects.list("")) == []


def test_wrong_credentials_are_refused(objects: Objects, storage_server: StorageServer) -> None:
    objects.put("a", b"a")
    key = storage_server.access_key
    thief = Objects(storage_server.endpoint, REGION, bucket=objects.bucket, access_key=key, secret_key="x" * 40)
    with pytest.raises(ObjectsUnavailableError) as caught:
        thief.get("a")
    assert "SignatureDoesNotMatch" in caught.value.message
    thief.close()


def test_a_missing_bucket_and_a_missing_server_are_unavailable(storage_server: StorageServer) -> None:
    nowhere = storage_server.open_objects("no-such-bucket")
    with pytest.raises(ObjectsUnavailableError, match="no bucket"):
        nowhere.ping()
    nowhere.close()
    dead = Objects("http://127.0.0.1:9", REGION, bucket="b-b", access_key="a", secret_key="b")
    for call in (dead.ping, dead.ensure_bucket, lambda: dead.get("a"), lambda: list(dead.list("a/"))):
        with pytest.raises(ObjectsUnavailableError, match="does not answer"):
            call()
    dead.close()


def test_ensuring_the_bucket_can_be_repeated(objects: Objects) -> None:
    objects.put("kept", b"1")
    objects.ensure_bucket()
    objects.ping()
    assert objects.get("kept") == b"1"


def test_acknowledged_objects_survive_a_killed_server() -> None:
    server = StorageServer()
    try:
        server.start()
        objects = server.open_objects("durable")
        objects.ensure_bucket()
        bodies = {f"k/{number}": _random_bytes(number * 1000) for number in range(1, 30)}
        for key, body in bodies.items():
            objects.put(key, body)
        with objects.open_upload("big") as writer:
            writer.write(_random_bytes(2 * PART_BYTES))
            written = writer.finish()
        server.kill()
        with pytest.raises(ObjectsUnavailableError):
            objects.ping()
        server.start()
        assert {key: objects.get(key) for key in bodies} == bodies
        assert hashlib.sha256(objects.get("big")).hexdigest() == written.sha256
        objects.close()
    finally:
        server.remove()
