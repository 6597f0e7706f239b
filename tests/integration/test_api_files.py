"""Uploads and downloads as they happen on the wire: forms in any order, clients that leave, sizes, broken data sets."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.objects.client import Objects
from tests.support.openai_clients import tickets
from tests.support.servers import ApiServer, run_server
from tests.support.storage import StorageServer

BOUNDARY = "a-boundary"
END = f"--{BOUNDARY}--\r\n".encode()
DAY = 86_400


def _field(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def _file(data: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n'
    return head.encode() + data + b"\r\n"


PURPOSE, ANCHOR, SECONDS = (
    _field("purpose", "fine-tune"),
    _field("expires_after[anchor]", "created_at"),
    _field("expires_after[seconds]", str(DAY)),
)


def _send(server: ApiServer, body: bytes, **options: Any) -> Any:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    with server.http(**options) as http:
        return http.post("/v1/files", content=body, headers=headers)


def _objects(server: ApiServer) -> list[str]:
    return [found.key for found in server.services.objects.list("teams/")]


@pytest.mark.parametrize(
    "parts",
    [(PURPOSE, ANCHOR, SECONDS, None), (None, PURPOSE, ANCHOR, SECONDS), (PURPOSE, None, ANCHOR, SECONDS)],
    ids=["file last", "file first", "expiry last, as curl sends it"],
)
def test_the_parts_of_a_form_may_come_in_any_order(api_server: ApiServer, parts: tuple[bytes | None, ...]) -> None:
    data = tickets(2000)
    assert len(data) > 256 * 1024
    answer = _send(api_server, b"".join(part or _file(data) for part in parts) + END)
    file = answer.json()
    assert (answer.status_code, file["status"], file["bytes"]) == (200, "processed", len(data))
    assert file["expires_at"] == file["created_at"] + DAY
    with api_server.http() as http:
        content = http.get(f"/v1/files/{file['id']}/content")
    assert content.content == data
    assert content.headers["content-length"] == str(len(data))
    assert content.headers["content-disposition"].startswith("attachment")
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (_file(b"{}") + END, "purpose"),
        (PURPOSE + END, "file"),
        (PURPOSE + _file(b"{}") + ANCHOR + _field("expires_after[seconds]", "soon") + END, "expires_after[seconds]"),
        (PURPOSE + _file(b"{}") + _field("expires_after[anchor]", "today") + END, "expires_after[anchor]"),
        (_field("purpose", "evals") + _file(b"{}") + END, "purpose"),
    ],
)
def test_a_form_that_is_wrong_leaves_nothing_behind(api_server: ApiServer, body: bytes, param: str) -> None:
    answer = _send(api_server, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert _objects(api_server) == []


def test_a_body_that_is_no_form_is_refused(api_server: ApiServer) -> None:
    with api_server.http() as http:
        answer = http.post("/v1/files", json={"purpose": "fine-tune"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_content_type")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"not json\n", "line 1"),
        (tickets(3) + b'{"messages": [{"role": "wizard", "content": "x"}]}\n', "line 4"),
        (tickets(3) + b"\n" + tickets(1), "line 4"),
        (b"\xff\xfe{\x00}\x00", "UTF-16"),
        (b'{"messages": [{"role": "user", "content": "only a question"}]}\n', "assistant"),
    ],
)
def test_a_broken_data_set_is_stored_and_says_where_it_is_broken(api_server: ApiServer, data: bytes, says: str) -> None:
    file = _send(api_server, PURPOSE + _file(data) + END).json()
    assert file["status"] == "error"
    assert says.lower() in file["status_details"].lower()
    with api_server.http() as http:
        body = {"model": "tiny", "training_file": file["id"]}
        refused = http.post("/v1/fine_tuning/jobs", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_training_file", "training_file")
    assert file["status_details"] in error["message"]


@pytest.fixture
def small_server(storage_server: StorageServer, sqlite_url: str, tmp_path: Path) -> Iterator[ApiServer]:
    """It takes files of 100 000 bytes, and other bodies of 2000."""
    with run_server(storage_server, sqlite_url, tmp_path, max_file_bytes=100_000, max_body_bytes=2000) as server:
        yield server


@pytest.mark.parametrize("order", ["file last", "file first"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused_before_it_is_read(
    small_server: ApiServer, order: str, announced: bool
) -> None:
    """Twenty times as large as what is taken, so that the socket's buffers cannot hold it."""
    data = b"x" * 20_000_000
    body = PURPOSE + _file(data) + END if order == "file last" else _file(data) + PURPOSE + END
    chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    answer = _send(small_server, body if announced else chunks)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert _objects(small_server) == []


def test_a_file_of_exactly_the_limit_is_taken(small_server: ApiServer) -> None:
    data = tickets(1)
    data = data + b" " * (100_000 - len(data) - 1) + b"\n"
    assert _send(small_server, PURPOSE + _file(data) + END).json()["bytes"] == 100_000


def test_a_json_body_over_the_limit_is_refused_in_the_envelope(small_server: ApiServer) -> None:
    body = {"model": "m" * 2000, "training_file": "file-x"}
    with small_server.http() as http:
        whole = http.post("/v1/fine_tuning/jobs", json=body)
        chunks = iter([json.dumps(body).encode()])
        hidden = http.post("/v1/fine_tuning/jobs", content=chunks, headers={"content-type": "application/json"})
    for answer in (whole, hidden):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("first", [PURPOSE, b""], ids=["while it is stored", "while it is spooled"])
def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    api_server: ApiServer, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    _tell_when_done(api_server, ended, monkeypatch)
    begun = first + _file(b"x" * 300_000)
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {api_server.admin_key}\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {len(begun) + 1_000_000}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", api_server.port)) as connection:
        connection.sendall(head.encode() + begun)
    assert ended.wait(20)
    assert _objects(api_server) == []
    with api_server.http() as http:
        assert http.get("/v1/files").json()["data"] == []


def _tell_when_done(server: ApiServer, ended: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ended` is set when the server has finished with a request."""
    metrics = server.http_metrics
    observe = metrics.observe

    def tell(*args: Any) -> None:
        observe(*args)
        ended.set()

    monkeypatch.setattr(metrics, "observe", tell)


def test_a_download_that_stops_half_way_does_not_harm_the_next(api_server: ApiServer) -> None:
    data = tickets(30_000)
    file = _send(api_server, PURPOSE + _file(data) + END).json()
    path = f"/v1/files/{file['id']}/content"
    with api_server.http() as http:
        for _ in range(5):
            with http.stream("GET", path) as response:
                next(response.iter_raw(1000))
        assert http.get(path).content == data


def test_bytes_that_changed_in_the_store_are_never_sent_whole(api_server: ApiServer) -> None:
    data = tickets(3000)
    file = _send(api_server, PURPOSE + _file(data) + END).json()
    (key,) = _objects(api_server)
    objects: Objects = api_server.services.objects
    objects.put(key, data[:-2] + b"!\n")
    received: list[bytes] = []
    with (
        api_server.http() as http,
        http.stream("GET", f"/v1/files/{file['id']}/content") as response,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        received.extend(response.iter_raw())
    assert len(b"".join(received)) < len(data)
    objects.delete(key)
    with api_server.http() as http:
        missing = http.get(f"/v1/files/{file['id']}/content")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "object_missing")


def test_many_slow_uploads_do_not_hold_up_other_requests(api_server: ApiServer) -> None:
    """More than there are threads for uploads, each with its file begun."""
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {api_server.admin_key}\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: 1000000\r\n\r\n"
    )
    connections = [socket.create_connection(("127.0.0.1", api_server.port)) for _ in range(30)]
    try:
        for connection in connections:
            connection.sendall(head.encode() + PURPOSE + _file(b"x")[:-2])
        with api_server.http() as http:
            for _ in range(20):
                assert http.get("/v1/fine_tuning/jobs").status_code == 200
    finally:
        for connection in connections:
            connection.close()
