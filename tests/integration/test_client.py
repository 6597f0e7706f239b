"""The Python client over real HTTP: what it sends, what it retries, what it refuses."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from api.client import Tunepool
from api.client import errors as client_errors
from api.client import tail as client_tail
from api.client.results import Job
from tests.support.stub_api import Answer, StubApi, as_error, as_json, as_list, as_stream

JOBS = "/v1/fine_tuning/jobs"


def a_job(**changes: Any) -> dict[str, Any]:
    fields = {"id": "ftjob-1", "status": "queued", "model": "m", "created_at": 5, "training_file": "file-1", "seed": 7}
    return {**fields, **changes}


@pytest.fixture
def api() -> Iterator[StubApi]:
    with StubApi() as stub, stamina.set_testing(True, attempts=3, cap=True):
        yield stub


@pytest.fixture
def client(api: StubApi) -> Iterator[Tunepool]:
    with Tunepool(api.url, "tp-key") as made:
        yield made


def test_a_client_without_an_address_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEPOOL_URL", raising=False)
    with pytest.raises(client_errors.NotConfiguredError, match="TUNEPOOL_URL and TUNEPOOL_API_KEY"):
        Tunepool(api_key="k")


def test_address_and_key_come_from_the_environment(api: StubApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPOOL_URL", f"{api.url}/v1/")
    monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-environment")
    api.on("GET", f"{JOBS}/ftjob-1", as_json(a_job()))
    with Tunepool() as client:
        assert client.jobs.get("ftjob-1").status == "queued"
    assert api.asked[0].headers["authorization"] == "Bearer tp-environment"


def test_a_job_is_created_with_an_idempotency_key_that_its_retries_share(api: StubApi, client: Tunepool) -> None:
    api.on("POST", JOBS, as_error(503), Answer(b"xx", cut_after=0), as_json(a_job(new_field=[1])))
    job = client.jobs.create(model="m", training_file="file-1", lora={"r": 8})
    assert job.id == "ftjob-1"
    assert job.model_dump()["new_field"] == [1]
    assert len(api.asked) == 3
    keys = {asked.headers["idempotency-key"] for asked in api.asked}
    assert len(keys) == 1
    assert all(asked.json == {"model": "m", "training_file": "file-1", "lora": {"r": 8}} for asked in api.asked)
    client.jobs.create(model="m", training_file="file-1")
    assert api.asked[-1].headers["idempotency-key"] not in keys


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, client_errors.BadRequestError),
        (401, client_errors.UnauthorizedError),
        (403, client_errors.ForbiddenError),
        (404, client_errors.NotFoundError),
        (409, client_errors.ConflictError),
        (413, client_errors.TooLargeError),
    ],
)
def test_what_the_caller_must_change_is_raised_at_once(
    api: StubApi, client: Tunepool, status: int, kind: type[client_errors.ApiError]
) -> None:
    api.on("GET", f"{JOBS}/ftjob-1", as_error(status, "no such thing", "some_code", param="model"))
    with pytest.raises(kind) as caught:
        client.jobs.get("ftjob-1")
    error = caught.value
    assert (error.status, error.code, error.param, error.request_id) == (status, "some_code", "model", "req_1")
    assert str(error) == "no such thing (model)"
    assert len(api.asked) == 1


@pytest.mark.parametrize(("status", "kind"), [(429, "RateLimitedError"), (500, "ServerError"), (503, "ServerError")])
def test_what_passes_is_tried_again_and_then_raised(api: StubApi, client: Tunepool, status: int, kind: str) -> None:
    api.on("GET", f"{JOBS}/ftjob-1", as_error(status))
    with pytest.raises(getattr(client_errors, kind)):
        client.jobs.get("ftjob-1")
    assert len(api.asked) == 3


def test_the_server_may_forbid_and_demand_a_retry(api: StubApi, client: Tunepool) -> None:
    api.on("GET", f"{JOBS}/a", as_error(503, x_should_retry="false"))
    with pytest.raises(client_errors.ServerError):
        client.jobs.get("a")
    assert len(api.asked) == 1
    api.on("GET", f"{JOBS}/b", as_error(409, x_should_retry="true", retry_after_ms="1"), as_json(a_job(id="b")))
    assert client.jobs.get("b").id == "b"


def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for(api: StubApi, client: Tunepool) -> None:
    api.on("GET", f"{JOBS}/a", as_error(429, retry_after="600"))
    with pytest.raises(client_errors.RateLimitedError) as caught:
        client.jobs.get("a")
    assert caught.value.retry_after_seconds == 600
    assert len(api.asked) == 1


def test_an_error_page_of_somebody_else_is_still_an_error(api: StubApi, client: Tunepool) -> None:
    api.on("GET", f"{JOBS}/a", Answer(b"<html>nginx</html>", 404))
    with pytest.raises(client_errors.NotFoundError, match="status 404 and no explanation"):
        client.jobs.get("a")


def test_nobody_at_the_address_is_a_clear_error(client: Tunepool, api: StubApi) -> None:
    with StubApi() as gone:
        address = gone.url
    with Tunepool(address, "k") as lonely, pytest.raises(client_errors.ConnectionFailedError, match=address):
        lonely.jobs.get("a")


def test_a_followed_log_survives_broken_connections_without_loss_or_repeat(api: StubApi, client: Tunepool) -> None:
    def rows(*numbers: int) -> list[tuple[str, str, Any]]:
        line = {"attempt": 1, "at": 1.5, "stream": "stdout", "level": "info"}
        return [("log", f"ftlog-{n}", {"id": f"ftlog-{n}", "text": f"line {n}", **line}) for n in numbers]

    done = ("done", "", {"id": "ftjob-1", "status": "succeeded"})
    api.on(
        "GET",
        f"{JOBS}/ftjob-1/logs",
        as_stream(rows(1, 2), cut=True),
        as_error(503),
        as_stream(rows(3)),
        as_stream([*rows(4), done]),
    )
    texts = [line.text for line in client.jobs.logs("ftjob-1", follow=True, level="info")]
    assert texts == ["line 1", "line 2", "line 3", "line 4"]
    assert [asked.headers.get("last-event-id") for asked in api.asked] == [None, "ftlog-2", "ftlog-2", "ftlog-3"]
    assert all(asked.query == {"level": "info", "stream": "true"} for asked in api.asked)


def test_a_stream_that_is_refused_is_not_tried_again(api: StubApi, client: Tunepool) -> None:
    api.on("GET", f"{JOBS}/x/logs", as_error(404))
    with pytest.raises(client_errors.NotFoundError):
        list(client.jobs.logs("x", follow=True))
    assert len(api.asked) == 1


def test_a_stream_is_given_up_when_the_server_stays_away(api: StubApi, client: Tunepool) -> None:
    api.on("GET", f"{JOBS}/x/logs", as_error(503))
    pauses: list[float] = []
    rows = client_tail.follow_rows(
        client.transport, f"{JOBS}/x/logs", Job, {}, patience_seconds=0.05, sleep=pauses.append
    )
    with pytest.raises(client_errors.ServerError):
        list(rows)
    assert pauses[:3] == [0.25, 0.5, 1.0]


def test_pages_are_read_to_their_end(api: StubApi, client: Tunepool) -> None:
    def event(number: int) -> dict[str, Any]:
        return {"id": f"e{number}", "created_at": 1, "level": "info", "message": f"m{number}"}

    api.on("GET", f"{JOBS}/x/events", as_list(event(1), event(2), has_more=True), as_list(event(3)))
    assert [e.message for e in client.jobs.events("x")] == ["m1", "m2", "m3"]
    assert api.asked[1].query == {"order": "asc", "limit": "100", "after": "e2"}


def test_jobs_are_filtered_by_metadata(api: StubApi, client: Tunepool) -> None:
    api.on("GET", JOBS, as_list(a_job()))
    assert [job.id for job in client.jobs.list(metadata={"k": "v"})] == ["ftjob-1"]
    assert api.asked[0].query == {"limit": "20", "metadata[k]": "v"}


def test_waiting_ends_with_the_job_or_with_the_time(api: StubApi, client: Tunepool) -> None:
    api.on("GET", f"{JOBS}/ftjob-1", as_json(a_job(status="running")), as_json(a_job(status="failed")))
    assert client.jobs.wait("ftjob-1", poll_seconds=0.001).status == "failed"
    api.on("GET", f"{JOBS}/ftjob-1", as_json(a_job(status="running")))
    with pytest.raises(client_errors.WaitTimeoutError, match="still running"):
        client.jobs.wait("ftjob-1", timeout_seconds=0.01, poll_seconds=0.005)


def a_file(**changes: Any) -> dict[str, Any]:
    return {"id": "file-1", "filename": "t.jsonl", "bytes": 3, "created_at": 1, "purpose": "fine-tune"} | {
        "status": "uploaded",
        **changes,
    }


def test_a_file_is_sent_whole_on_every_try(api: StubApi, client: Tunepool, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"messages": []}\n')
    api.on("POST", "/v1/files", as_error(500), as_json(a_file()))
    told: list[tuple[int, int]] = []
    assert client.files.create(path, on_progress=lambda *sent: told.append(sent)).id == "file-1"
    assert set(told) == {(17, 17)}
    assert len(api.asked) == 2
    for asked in api.asked:
        assert b'{"messages": []}\n' in asked.body
        assert b'filename="train.jsonl"' in asked.body
        assert asked.body.index(b'name="purpose"') < asked.body.index(b'name="file"')


def test_a_large_file_goes_up_in_parts(
    api: StubApi, client: Tunepool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.client.files.WHOLE_BYTES", 10)
    monkeypatch.setattr("api.client.files.PART_BYTES", 8)
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"0123456789abcdefghij")
    api.on("POST", "/v1/uploads", as_json({"id": "upload_1"}))
    api.on("POST", "/v1/uploads/upload_1/parts", *[as_json({"id": f"part_{n}"}) for n in (1, 2, 3)])
    api.on("POST", "/v1/uploads/upload_1/complete", as_json({"id": "upload_1", "file": a_file(bytes=20)}))
    told: list[tuple[int, int]] = []
    assert client.files.create(path, on_progress=lambda *sent: told.append(sent)).bytes == 20
    assert list(dict.fromkeys(told)) == [(8, 20), (16, 20), (20, 20)]
    assert api.asked[0].json["bytes"] == 20
    parts = api.asked_for("POST", "/v1/uploads/upload_1/parts")
    assert [chunk in part.body for chunk, part in zip((b"01234567", b"89abcdef", b"ghij"), parts, strict=True)]
    assert api.asked[-1].json == {"part_ids": ["part_1", "part_2", "part_3"]}


class AdapterOnline:
    """An adapter of two files on the stub, with changes that a test makes."""

    def __init__(self, api: StubApi) -> None:
        self.api = api
        self.files = {"adapter_model.safetensors": b"weights" * 1000, "adapter_config.json": b"{}"}
        self.store_url = api.url
        self.manifest = {"version": 1}
        self.publish()

    def publish(self) -> None:
        listed = [
            {
                "name": name,
                "size_bytes": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "url": f"{self.store_url}/store/{name}?signature=s",
            }
            for name, body in self.files.items()
        ]
        self.api.on("GET", "/v1/adapters/adapter-1/files", as_list(*listed))
        self.api.on("GET", "/v1/adapters/adapter-1/manifest", as_json(self.manifest))
        for name, body in self.files.items():
            self.api.on("GET", f"/store/{name}", Answer(body))

    def tar(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(mode="w", fileobj=buffer) as tar:
            for name, body in self.files.items():
                member = tarfile.TarInfo(f"../outside/{name}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
        return buffer.getvalue()


@pytest.fixture
def online(api: StubApi) -> AdapterOnline:
    return AdapterOnline(api)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_adapter_arrives_whole_and_a_second_download_fetches_nothing(
    online: AdapterOnline, client: Tunepool, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    folder = client.adapters.download("adapter-1", tmp_path / "out", on_progress=lambda *sent: told.append(sent))
    assert told[-1] == (7002, 7002)
    assert told == sorted(told)
    manifest = json.dumps(online.manifest, indent=2).encode()
    assert _content(folder) == {**online.files, "manifest.json": manifest}
    stores = [asked for asked in online.api.asked if asked.path.startswith("/store/")]
    assert len(stores) == 2
    assert all("authorization" not in asked.headers for asked in stores)
    client.adapters.download("adapter-1", folder)
    assert len([asked for asked in online.api.asked if asked.path.startswith("/store/")]) == 2


def test_an_adapter_can_be_named_by_its_job(online: AdapterOnline, client: Tunepool, tmp_path: Path) -> None:
    online.api.on("GET", f"{JOBS}/ftjob-1", as_json(a_job(status="succeeded", adapter_id="adapter-1")))
    assert (client.adapters.download("ftjob-1", tmp_path) / "adapter_config.json").exists()
    online.api.on("GET", f"{JOBS}/ftjob-2", as_json(a_job(status="running")))
    with pytest.raises(client_errors.DownloadError, match="no adapter: it is running"):
        client.adapters.download("ftjob-2", tmp_path)


def test_a_wrong_byte_is_noticed_and_no_file_is_left_under_the_name(
    online: AdapterOnline, client: Tunepool, tmp_path: Path
) -> None:
    online.api.on("GET", "/store/adapter_config.json", Answer(b"[]"))
    with pytest.raises(client_errors.DownloadError, match=r"adapter_config\.json does not match its checksum"):
        client.adapters.download("adapter-1", tmp_path)
    assert set(_content(tmp_path)) == {"adapter_model.safetensors"}
    online.publish()
    assert _content(client.adapters.download("adapter-1", tmp_path))["adapter_config.json"] == b"{}"


def test_a_broken_download_goes_on_where_it_stopped(online: AdapterOnline, client: Tunepool, tmp_path: Path) -> None:
    name, body = "adapter_model.safetensors", online.files["adapter_model.safetensors"]
    (tmp_path / f".{name}.part").write_bytes(body[:3000])
    online.api.on("GET", f"/store/{name}", Answer(body[3000:], 206))
    told: list[tuple[int, int]] = []
    found = client.adapters.download("adapter-1", tmp_path, on_progress=lambda *sent: told.append(sent))
    assert _content(found)[name] == body
    assert told[0] == (7000, 7002)
    assert online.api.asked_for("GET", f"/store/{name}")[0].headers["range"] == "bytes=3000-"


def test_an_object_store_out_of_reach_is_gone_round_by_the_api(
    online: AdapterOnline, client: Tunepool, tmp_path: Path
) -> None:
    with StubApi() as gone:
        online.store_url = gone.url
    online.publish()
    online.api.on("GET", "/v1/adapters/adapter-1/tar", Answer(online.tar()))
    found = _content(client.adapters.download("adapter-1", tmp_path / "out"))
    assert {name: found[name] for name in online.files} == online.files
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "", "a/b"])
def test_a_file_name_that_leaves_the_folder_is_refused(
    api: StubApi, client: Tunepool, tmp_path: Path, name: str
) -> None:
    listed = {"name": name, "size_bytes": 1, "sha256": "0", "url": f"{api.url}/store/x"}
    api.on("GET", "/v1/adapters/adapter-1/files", as_list(listed))
    with pytest.raises(client_errors.DownloadError, match="refused a file"):
        client.adapters.download("adapter-1", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
