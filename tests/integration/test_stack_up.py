"""`tunepool up` for real: what it prints, who can reach it, and what is left when it ends or is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from api.stack import processes
from api.stack.folder import is_locked, load_secrets, open_folder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
KEY = re.compile(r"\btp_\S+")


def tunepool(folder: Path, *arguments: str, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli.main", *arguments],
        env={**os.environ, "TUNEPOOL_DATA_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_seconds,
    )


def marked(folder: Path) -> list[psutil.Process]:
    """Every process of the stack, with everything below it."""
    opened = open_folder(folder)
    found: set[psutil.Process] = set()
    for pid in processes.find_marked(processes.mark_of(load_secrets(opened).stack_id, opened.root)):
        process = psutil.Process(pid)
        found |= {process, *process.children(recursive=True)}
    return list(found)


def assert_all_gone(known: list[psutil.Process], folder: Path) -> None:
    _, alive = psutil.wait_procs(known, timeout=60)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert marked(folder) == []
    assert not is_locked(open_folder(folder))


@contextmanager
def run_foreground(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A stack at a terminal that is no terminal, and what it printed until it was ready."""
    command = [sys.executable, "-m", "api.cli.main", "up", "--data-dir", str(folder), "--cpu-memory-gib", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = ""
        while "tunepool submit" not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        yield process, said
    finally:
        process.kill()
        process.communicate()
        processes.kill_leftovers(processes.mark_of(load_secrets(open_folder(folder)).stack_id, folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Longer than a socket's path may be, as real folders are."""
    return tmp_path_factory.mktemp("a-folder-whose-path-leaves-no-room-for-the-name-of-a-unix-socket-below-it") / "data"


@pytest.fixture(scope="module")
def foreground(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """One stack for all tests that leave it running."""
    with run_foreground(folder) as running:
        yield running


def test_the_first_start_shows_the_key_once_and_keeps_it_private(
    foreground: tuple[subprocess.Popen[str], str], folder: Path
) -> None:
    _, said = foreground
    known = json.loads((folder / "client.json").read_text())
    assert KEY.findall(said) == [known["api_key"]]
    assert known["url"] in said
    assert (folder / "client.json").stat().st_mode & 0o777 == 0o600
    elsewhere = [path for path in folder.rglob("*") if path.is_file() and path.name != "client.json"]
    assert len(elsewhere) > 10
    assert not [path for path in elsewhere if known["api_key"].encode() in path.read_bytes()]


def test_the_command_line_finds_the_stack_by_its_folder(
    foreground: tuple[subprocess.Popen[str], str], folder: Path
) -> None:
    (device,) = json.loads(tunepool(folder, "pool", "--json").stdout)["devices"]
    assert (device["kind"], device["usable_bytes"], device["online"]) == ("cpu", 2 * 1024**3, True)
    status = json.loads(tunepool(folder, "status", "--json").stdout)
    assert status["phase"] == "ready"
    assert [part["name"] for part in status["parts"]] == ["objects", "ray", "bootstrap", "api", "scheduler"]
    assert {part["state"] for part in status["parts"]} == {"ready"}
    assert all(part["rss_bytes"] > 0 for part in status["parts"] if part["pid"])


def test_a_second_stack_on_the_folder_is_refused(foreground: tuple[subprocess.Popen[str], str], folder: Path) -> None:
    process, _ = foreground
    for arguments in (["up"], ["up", "--detach"]):
        done = tunepool(folder, *arguments)
        assert done.returncode == 5
        assert "a stack runs on" in done.stderr
        assert "tunepool down" in done.stderr
    assert process.poll() is None


def test_everything_listens_on_loopback_only(foreground: tuple[subprocess.Popen[str], str], folder: Path) -> None:
    known = marked(folder)
    addresses = {
        connection.laddr.ip
        for process in known
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(known) > 6
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_it_ends_in_order_at_ctrl_c_and_without_a_trace_at_kill_9(tmp_path: Path) -> None:
    """One folder, two starts: only the first shows the key."""
    folder = tmp_path / "data"
    with run_foreground(folder) as (process, said):
        known = marked(folder)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert len(KEY.findall(said)) == 1
    assert process.returncode == 0, errors
    assert_all_gone(known, folder)
    assert tunepool(folder, "status").returncode == 5

    done = tunepool(folder, "up", "--detach", "--cpu-memory-gib", "2")
    assert done.returncode == 0, done.stderr
    assert KEY.findall(done.stdout) == []
    assert tunepool(folder, "keys", "--json").returncode == 0
    supervisor = psutil.Process(json.loads((folder / "stack.json").read_text())["pid"])
    known = marked(folder)
    supervisor.kill()
    assert_all_gone(known, folder)
    assert tunepool(folder, "down").stdout == f"no stack runs on {folder}\n"
