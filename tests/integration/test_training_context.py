"""Both contexts keep the same rules: one over a real S3 server and pipes, the other over a folder."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
import stamina
import stamina.instrumentation

from orchestrator.domain.protocol import LogLine, RemoteFile, StopReason, UploadGrant
from orchestrator.objects.client import Objects
from tests.support.training import describe
from workers.context import Context, LocalContext, RemoteContext
from workers.failures import StorageError

PREFIX = "jobs/ftjob-1/attempts/0001-attempt-1/"


@dataclass
class Seam:
    """A context, and the other side of it."""

    context: Context
    publish: Callable[[str, bytes], RemoteFile]
    """Put bytes where the context can fetch them."""
    read: Callable[[str], bytes]
    """What is stored under a key. Raises when nothing is."""
    reports: Callable[[], list[dict[str, Any]]]
    ask_to_stop: Callable[[StopReason], None]


@dataclass
class Supervisor:
    """The parent's ends of the two pipes. The control pipe stays open: its end would mean our death."""

    report_read: IO[bytes]
    control_write: IO[str]
    orphaned: threading.Event = field(default_factory=threading.Event)


OpenRemote = Callable[[UploadGrant], tuple[RemoteContext, Supervisor]]


@pytest.fixture
def open_remote() -> Iterator[OpenRemote]:
    """Open contexts as a child would, and close both ends afterwards."""
    opened: list[tuple[RemoteContext, Supervisor]] = []

    def open_one(grant: UploadGrant) -> tuple[RemoteContext, Supervisor]:
        report_read, report_write = os.pipe()
        control_read, control_write = os.pipe()
        supervisor = Supervisor(os.fdopen(report_read, "rb", 0), os.fdopen(control_write, "w", buffering=1))
        context = RemoteContext(
            grant, report_fd=report_write, control=os.fdopen(control_read), on_orphaned=supervisor.orphaned.set
        )
        opened.append((context, supervisor))
        return context, supervisor

    yield open_one
    for context, supervisor in opened:
        context.close()
        supervisor.report_read.close()
        supervisor.control_write.close()
        assert supervisor.orphaned.wait(10)


def make_remote(tmp_path: Path, objects: Objects, open_remote: OpenRemote) -> Seam:
    context, supervisor = open_remote(objects.presign_post(PREFIX, 60))

    def publish(name: str, body: bytes) -> RemoteFile:
        objects.put(f"inputs/{name}", body)
        (tmp_path / name).write_bytes(body)
        return describe(tmp_path / name, url=objects.presign_get(f"inputs/{name}", 60))

    def reports() -> list[dict[str, Any]]:
        return [json.loads(line)["report"] for line in supervisor.report_read.read(1 << 20).splitlines()]

    def ask_to_stop(stop: StopReason) -> None:
        supervisor.control_write.write(json.dumps({"unknown": 1}) + "\nnot json\n")
        supervisor.control_write.write(json.dumps({"stop": stop.model_dump()}) + "\n")

    return Seam(context, publish, objects.get, reports, ask_to_stop)


def make_local(tmp_path: Path) -> Seam:
    context = LocalContext(tmp_path / "local", key_prefix=PREFIX)

    def publish(name: str, body: bytes) -> RemoteFile:
        (tmp_path / name).write_bytes(body)
        return describe(tmp_path / name)

    def reports() -> list[dict[str, Any]]:
        return [json.loads(line)["report"] for line in (tmp_path / "local" / "reports.jsonl").read_text().splitlines()]

    return Seam(
        context, publish, lambda key: (tmp_path / "local" / "objects" / key).read_bytes(), reports, context.stop
    )


@pytest.fixture(params=["remote", "local"])
def seam(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Seam]:
    with stamina.set_testing(True, attempts=2):
        if request.param == "remote":
            yield make_remote(tmp_path, request.getfixturevalue("objects"), request.getfixturevalue("open_remote"))
        else:
            yield make_local(tmp_path)


def test_what_is_saved_is_there_with_its_size_and_checksum(seam: Seam, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(300_000))
    stored = seam.context.save(path, PREFIX + "adapter/weights.bin")
    assert seam.read(PREFIX + "adapter/weights.bin") == path.read_bytes()
    expected = describe(path)
    assert (stored.name, stored.size_bytes, stored.sha256) == (path.name, expected.size_bytes, expected.sha256)
    assert seam.context.key_prefix == PREFIX


def test_nothing_can_be_saved_beside_the_prefix(seam: Seam, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    with pytest.raises(StorageError):
        seam.context.save(path, "jobs/ftjob-1/attempts/0002-attempt-2/adapter/weights.bin")


def test_a_file_is_fetched_whole(seam: Seam, tmp_path: Path) -> None:
    body = os.urandom(3_000_000)
    target = tmp_path / "deep" / "target"
    seam.context.fetch(seam.publish("data", body), target)
    assert target.read_bytes() == body
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size_bytes": 5}])
def test_a_file_that_differs_from_its_description_does_not_appear(
    seam: Seam, tmp_path: Path, change: dict[str, Any]
) -> None:
    remote = seam.publish("data", b"four").model_copy(update=change)
    with pytest.raises(StorageError):
        seam.context.fetch(remote, tmp_path / "deep" / "target")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_file_that_is_not_there_is_a_storage_error_without_its_address(seam: Seam, tmp_path: Path) -> None:
    remote = seam.publish("data", b"four")
    missing = remote.model_copy(update={"url": remote.url.replace("data", "nothing")})
    with pytest.raises(StorageError) as caught:
        seam.context.fetch(missing, tmp_path / "target")
    assert "Signature" not in str(caught.value)


def test_reports_of_many_threads_are_whole_lines_in_each_ones_order(seam: Seam) -> None:
    def talk(speaker: int) -> None:
        for number in range(20):
            seam.context.report(LogLine(stream="tunepool", text=f"{speaker}:{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(talk, range(4)))
    texts = [report["text"] for report in seam.reports()]
    assert len(texts) == 80
    for speaker in range(4):
        assert [text for text in texts if text.startswith(f"{speaker}:")] == [f"{speaker}:{n}" for n in range(20)]


def test_a_request_to_stop_is_seen(seam: Seam) -> None:
    assert seam.context.should_stop() is None
    stop = StopReason(reason="paused", save=True)
    seam.ask_to_stop(stop)
    deadline = time.monotonic() + 10
    while seam.context.should_stop() is None and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    assert seam.context.should_stop() == stop


def test_the_end_of_the_control_pipe_means_that_the_supervisor_is_dead(
    objects: Objects, open_remote: OpenRemote
) -> None:
    _, supervisor = open_remote(objects.presign_post(PREFIX, 60))
    supervisor.control_write.close()
    assert supervisor.orphaned.wait(10)


def test_an_expired_grant_waits_for_a_new_one(tmp_path: Path, objects: Objects, open_remote: OpenRemote) -> None:
    """The old form is refused by the server; the next try uses the grant that came over the control pipe."""
    grant = objects.presign_post(PREFIX, 60)
    spoilt = {name: "" if "signature" in name.lower() else value for name, value in grant.fields.items()}
    context, supervisor = open_remote(grant.model_copy(update={"fields": spoilt, "expires_at_unix": 1}))
    path = tmp_path / "weights.bin"
    path.write_bytes(b"content")
    hooks = stamina.instrumentation.get_on_retry_hooks()
    retried: list[int] = []

    def renew(details: stamina.instrumentation.RetryDetails) -> None:
        retried.append(details.retry_num)
        supervisor.control_write.write(json.dumps({"grant": grant.model_dump()}) + "\n")

    stamina.instrumentation.set_on_retry_hooks([renew])
    try:
        assert context.save(path, PREFIX + "weights.bin").size_bytes == 7
    finally:
        stamina.instrumentation.set_on_retry_hooks(hooks)
    assert retried
    assert objects.get(PREFIX + "weights.bin") == b"content"
