"""The pieces of the embedded stack that need no server: folder, ports, delays, commands."""

import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api.stack import rayhead, weed
from api.stack.errors import StackError
from api.stack.folder import (
    DataFolder,
    Lock,
    Secrets,
    is_locked,
    load_secrets,
    open_folder,
    read_json,
    short_path,
    write_private,
)
from api.stack.parts import API, BOOTSTRAP, OBJECTS, RAY, SCHEDULER, Layout, build_parts
from api.stack.ports import Claims, Ports, choose_ports, free_ports
from api.stack.state import PartStatus, StackStatus, find_last_status, find_status, write_status
from api.stack.supervisor import choose_delay_seconds


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return open_folder(tmp_path / "data")


@pytest.fixture
def claims() -> Iterator[Claims]:
    made = Claims()
    yield made
    made.release()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_and_its_secrets_are_private_and_kept(folder: DataFolder) -> None:
    secrets = load_secrets(folder)
    assert _mode(folder.root) == 0o700
    files = list(folder.secrets.iterdir())
    assert len(files) == 4
    assert {_mode(path) for path in files} == {0o600}
    assert len({secrets.stack_id, secrets.s3_access_key, secrets.s3_secret_key, secrets.ray_token}) == 4
    assert load_secrets(open_folder(folder.root)) == secrets


def test_a_folder_that_others_could_read_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    assert _mode(open_folder(tmp_path / "data").root) == 0o700


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StackError, match="cannot make the data folder"):
        open_folder(tmp_path / "data")


def test_one_stack_at_a_time_holds_the_lock(folder: DataFolder) -> None:
    assert not is_locked(folder)
    lock = Lock(folder)
    assert is_locked(folder)
    write_private(folder.state_file, json.dumps({"pid": 4711, "url": "http://127.0.0.1:9"}))
    with pytest.raises(StackError, match=r"already \(process 4711, http://127.0.0.1:9\).*tunepool down"):
        Lock(folder)
    lock.release()
    assert not is_locked(folder)
    Lock(folder).release()


def test_a_status_counts_only_while_the_lock_is_held(folder: DataFolder) -> None:
    part = PartStatus(name="api", state="ready", pid=5, restarts=1, cause="")
    status = StackStatus(phase="ready", pid=os.getpid(), url="u", started_at=7, parts=(part,), ports={"api": 1})
    write_status(folder, status)
    assert find_status(folder) is None
    assert find_last_status(folder) == status
    lock = Lock(folder)
    assert find_status(folder) == status
    write_status(folder, replace(status, pid=os.getppid()))
    assert find_status(folder) is None
    lock.release()


def test_a_cut_file_reads_as_empty(folder: DataFolder) -> None:
    folder.state_file.write_text('{"pid": ')
    assert read_json(folder.state_file) == {}
    folder.state_file.write_text("[1]")
    assert read_json(folder.state_file) == {}


def test_a_short_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert short_path(tmp_path, longest=200) == tmp_path


def test_a_long_folder_is_reached_through_a_private_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = tmp_path / "t"
    short.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(short))
    target = tmp_path / ("deep" * 30)
    target.mkdir()
    longest = len(str(short)) + 40
    link = short_path(target, longest=longest)
    assert len(str(link)) <= longest
    assert link.resolve() == target
    assert _mode(link.parent) == 0o700
    assert short_path(target, longest=longest) == link


def test_a_link_folder_that_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"tunepool-{os.getuid()}").mkdir(mode=0o700)
    (tmp_path / f"tunepool-{os.getuid()}").chmod(0o777)
    with pytest.raises(StackError, match="not a private folder"):
        short_path(tmp_path / ("deep" * 40), longest=len(str(tmp_path)) + 40)


def test_no_outgoing_connection_and_no_other_stack_can_take_a_free_port(claims: Claims) -> None:
    """Neither between the choice and the server's start, nor while the server restarts."""
    first_of_outgoing = 32_768
    chosen = [free_ports(7, claims) for _ in range(30)]
    ports = {port for block in chosen for port in block}
    assert len(ports) == 30 * 7
    assert max(ports) < first_of_outgoing
    other = Claims()
    assert not any(other.take(block[0]) for block in chosen)
    other.release()


def test_a_block_with_a_taken_port_is_passed_over(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        monkeypatch.setattr("api.stack.ports.INNER", range(taken - 1, taken, 20))
        with pytest.raises(StackError, match="no 2 free ports"):
            free_ports(2, claims)


def test_a_taken_port_that_was_asked_for_is_refused(claims: Claims) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        with pytest.raises(StackError, match=f"port {taken} is taken"):
            choose_ports(claims, api_port=taken, weed_count=7)


def test_a_taken_default_port_gives_way_to_a_free_one(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr("api.stack.ports.API_PORT", server.getsockname()[1])
        ports = choose_ports(claims, api_port=None, weed_count=7)
        assert ports.api != server.getsockname()[1]
    assert len({ports.api, ports.s3, ports.ray, *ports.weed}) == 10


def test_a_port_that_another_stack_claimed_is_left_alone(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1, claims)
    claims.release()
    monkeypatch.setattr("api.stack.ports.S3_PORT", port)
    other = Claims()
    assert choose_ports(other, api_port=None, weed_count=1).s3 == port
    assert choose_ports(claims, api_port=None, weed_count=1).s3 != port
    other.release()
    assert claims.take(port)


def test_delays_double_up_to_a_limit() -> None:
    assert [choose_delay_seconds(n) for n in (1, 2, 3, 7, 50)] == [0.5, 1.0, 2.0, 30.0, 30.0]


@pytest.fixture
def layout(folder: DataFolder) -> Layout:
    secrets = Secrets(stack_id="id", s3_access_key="AK", s3_secret_key="SK", ray_token="RT")
    ports = Ports(api=1, s3=2, ray=3, weed=(11, 12, 13, 14, 15, 16, 17))
    return Layout(folder=folder, secrets=secrets, ports=ports, device_arguments=("--num-cpus", "2"))


def test_the_parts_start_in_an_order_that_their_needs_allow(layout: Layout) -> None:
    parts = build_parts(layout)
    assert [part.name for part in parts] == [OBJECTS, RAY, BOOTSTRAP, API, SCHEDULER]
    seen: set[str] = set()
    for part in parts:
        assert set(part.needs) <= seen
        seen.add(part.name)


def test_secrets_stand_in_no_command_line(layout: Layout) -> None:
    for part in build_parts(layout):
        assert not {"AK", "SK", "RT"} & set(" ".join(part.command).replace("=", " ").split())


def test_the_users_key_does_not_reach_the_parts(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-mine")
    monkeypatch.setenv("TUNEPOOL_MIN_TRAINING_ROWS", "3")
    parts = {part.name: part.environment for part in build_parts(layout)}
    assert all("tp-mine" not in environment.values() for environment in parts.values())
    assert parts[API]["TUNEPOOL_MIN_TRAINING_ROWS"] == "3"
    assert "TUNEPOOL_S3_SECRET_KEY" not in parts[OBJECTS]


def test_the_object_store_is_told_its_credentials_by_a_private_file(layout: Layout) -> None:
    weed.prepare_folder(layout.folder, layout.secrets)
    file = layout.folder.objects / "s3.json"
    assert _mode(file) == 0o600
    assert json.loads(file.read_text())["identities"][0]["credentials"] == [{"accessKey": "AK", "secretKey": "SK"}]


def test_old_ray_sessions_are_dropped_and_nothing_else(folder: DataFolder) -> None:
    (folder.ray / "session_1" / "logs").mkdir(parents=True)
    (folder.ray / "session_latest").symlink_to(folder.ray / "session_1")
    (folder.ray / "other").mkdir()
    rayhead.drop_old_sessions(folder)
    assert [path.name for path in folder.ray.iterdir()] == ["other"]


def test_sockets_that_nobody_serves_any_more_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weed, "SOCKET_FOLDER", tmp_path)
    dead, live = tmp_path / "seaweedfs-s3-grpc-1.sock", tmp_path / "seaweedfs-s3-grpc-2.sock"
    with socket.socket(socket.AF_UNIX) as closed, socket.socket(socket.AF_UNIX) as served:
        closed.bind(str(dead))
        closed.close()
        served.bind(str(live))
        served.listen()
        weed.remove_dead_sockets()
        assert dead.exists(), "its server may be about to listen"
        monkeypatch.setattr(weed, "YOUNGEST_SECONDS", -1.0)
        weed.remove_dead_sockets()
        assert live.exists()
        assert not dead.exists()
