"""What proves that an attempt is gone from a machine, and what keeps it from starting there again."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.domain.ids import new_attempt_id
from orchestrator.runtime import workspace
from orchestrator.runtime.cleanup import clean_attempt
from orchestrator.runtime.processes import (
    ProcessName,
    find_attempt_processes,
    is_alive,
    kill_attempt_processes,
    kill_process,
    name_process,
    read_environment,
    read_tree_bytes,
    wait_until_gone,
)
from tests.support.attempt_specs import MIB, wait_for

SLEEPER = "import signal, sys; sys.stdout.write('up'); sys.stdout.flush(); signal.pause()"


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of these tests in a folder of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start_sleeper(
    sleepers: list[subprocess.Popen[bytes]], *, attempt_id: str = "", program: str = SLEEPER
) -> ProcessName:
    """A process of its own session that is up and sleeps."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={"TUNEPOOL_ATTEMPT_ID": attempt_id, "MARK": "x=y"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    sleepers.append(process)
    assert process.stdout is not None
    assert process.stdout.read(2) == b"up"
    name = name_process(process.pid)
    assert name is not None
    return name


def test_processes_are_found_by_the_mark_in_their_environment(sleepers: list[subprocess.Popen[bytes]]) -> None:
    attempt_id = new_attempt_id()
    mine = {start_sleeper(sleepers, attempt_id=attempt_id) for _ in range(2)}
    start_sleeper(sleepers, attempt_id=attempt_id + "0")
    assert find_attempt_processes(attempt_id) == mine
    assert read_environment(next(iter(mine)).pid)["MARK"] == "x=y"


def test_all_processes_of_an_attempt_are_killed_and_no_other(sleepers: list[subprocess.Popen[bytes]]) -> None:
    attempt_id = new_attempt_id()
    mine = [start_sleeper(sleepers, attempt_id=attempt_id) for _ in range(2)]
    other = start_sleeper(sleepers, attempt_id=new_attempt_id())
    assert kill_attempt_processes(attempt_id, timeout_seconds=10)
    assert not any(is_alive(process) for process in mine)
    assert is_alive(other)
    assert kill_attempt_processes(attempt_id, timeout_seconds=0), "safe to repeat"


def test_a_process_id_that_was_used_again_is_not_killed(sleepers: list[subprocess.Popen[bytes]]) -> None:
    now = start_sleeper(sleepers)
    earlier = ProcessName(now.pid, now.start_ticks - 1)
    assert not is_alive(earlier)
    kill_process(earlier)
    assert wait_until_gone([earlier], timeout_seconds=0)
    assert not wait_until_gone([now], timeout_seconds=0.1)


def test_a_zombie_is_gone(sleepers: list[subprocess.Popen[bytes]]) -> None:
    name = start_sleeper(sleepers)
    os.kill(name.pid, signal.SIGKILL)
    assert wait_until_gone([name], timeout_seconds=5)
    assert Path(f"/proc/{name.pid}").exists(), "nobody has waited for it"


def test_memory_is_counted_over_the_whole_tree(sleepers: list[subprocess.Popen[bytes]]) -> None:
    eat = f"import signal, sys, subprocess; held = b'x' * {60 * MIB}\n"
    child = eat + SLEEPER.removeprefix("import signal, sys; ")
    program = eat + f"subprocess.Popen([sys.executable, '-c', {child!r}])\nsignal.pause()"
    name = start_sleeper(sleepers, program=program)
    assert 120 * MIB < read_tree_bytes(name.pid) < 220 * MIB
    (below,) = psutil.Process(name.pid).children()
    below.kill()
    wait_for(lambda: read_tree_bytes(name.pid) < 100 * MIB)
    assert read_tree_bytes(2**22) == 0


def test_only_the_first_start_of_an_attempt_counts(tmp_path: Path) -> None:
    attempt_id = new_attempt_id()
    assert workspace.claim_start(attempt_id, tmp_path / "w", dedicated=True)
    assert not workspace.claim_start(attempt_id, tmp_path / "w", dedicated=True)
    record = workspace.find_record(attempt_id)
    assert record is not None
    assert workspace.process_of(record) == name_process(os.getpid())
    workspace.forget_start(attempt_id)
    assert workspace.claim_start(attempt_id, tmp_path / "w", dedicated=True)


def test_records_are_private_and_named_by_nothing_but_identifiers(tmp_path: Path) -> None:
    assert stat.S_IMODE(workspace.records_dir().stat().st_mode) == 0o700
    for name in ("../x", "", "a/b", ".."):
        with pytest.raises(ValueError, match="file name"):
            workspace.forget_start(name)


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"tunepool-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        workspace.records_dir()


def test_an_attempt_that_never_started_is_kept_from_starting(tmp_path: Path) -> None:
    attempt_id = new_attempt_id()
    assert clean_attempt(attempt_id)
    assert not workspace.claim_start(attempt_id, tmp_path, dedicated=True)
    assert workspace.find_record(attempt_id) is None
    assert clean_attempt(attempt_id), "safe to repeat"


def test_the_supervisors_process_and_the_folder_go_too(tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]) -> None:
    attempt_id, work_dir = new_attempt_id(), tmp_path / "work"
    supervisor = write_record(attempt_id, work_dir, sleepers, dedicated=True)
    child = start_sleeper(sleepers, attempt_id=attempt_id)
    assert clean_attempt(attempt_id)
    assert not is_alive(supervisor)
    assert not is_alive(child)
    assert not work_dir.exists()
    assert not workspace.claim_start(attempt_id, work_dir, dedicated=True)


def test_a_process_that_serves_others_is_left_alone(tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]) -> None:
    attempt_id = new_attempt_id()
    supervisor = write_record(attempt_id, tmp_path / "work", sleepers, dedicated=False)
    assert clean_attempt(attempt_id)
    assert is_alive(supervisor)


def test_a_launch_that_was_taken_back_may_be_repeated(tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]) -> None:
    attempt_id, work_dir = new_attempt_id(), tmp_path / "work"
    supervisor = write_record(attempt_id, work_dir, sleepers, dedicated=True)
    assert clean_attempt(attempt_id, may_start_again=True)
    assert not is_alive(supervisor)
    assert workspace.claim_start(attempt_id, work_dir, dedicated=True)


def write_record(
    attempt_id: str, work_dir: Path, sleepers: list[subprocess.Popen[bytes]], *, dedicated: bool
) -> ProcessName:
    """As another process's supervisor does."""
    work_dir.mkdir()
    process = start_sleeper(sleepers)
    record = workspace.StartRecord(
        work_dir=str(work_dir), pid=process.pid, start_ticks=process.start_ticks, dedicated=dedicated
    )
    (workspace.records_dir() / attempt_id).write_text(record.model_dump_json())
    return process


def test_old_records_of_attempts_that_never_ran_are_dropped(tmp_path: Path) -> None:
    old, running = new_attempt_id(), new_attempt_id()
    clean_attempt(old)
    workspace.claim_start(running, tmp_path, dedicated=True)
    folder = workspace.records_dir()
    long_ago = time.time() - workspace.KEEP_SECONDS - 60
    for name in (old, running):
        os.utime(folder / name, (long_ago, long_ago))
    clean_attempt(new_attempt_id())
    assert not (folder / old).exists()
    assert (folder / running).exists()
