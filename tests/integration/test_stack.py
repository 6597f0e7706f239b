"""The supervising process with real children: order, restarts, and that nothing is ever left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from api.stack import processes, tether
from api.stack.errors import StackError
from api.stack.supervisor import Part, PartState, Supervisor

SLEEP = "import time; time.sleep(600)"
FAMILY = (
    "import os, subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import os, time; os.setsid(); time.sleep(600)'], env={})\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)\n"
)
"""A process with a child in a session of its own and without any environment: what Ray's actors look like."""


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


class Run:
    """A supervisor in a thread of its own, and the states that it went through."""

    def __init__(self, tmp_path: Path, *parts: Part) -> None:
        self.mark = f"test@{tmp_path}"
        self.history: list[tuple[str, ...]] = []
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self.supervisor = Supervisor(parts, mark=self.mark, folder=tmp_path, logs=tmp_path, changed=self._note)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.supervisor.run()
        except StackError as error:
            self.error = error

    def _note(self) -> None:
        with self._changed:
            self.history.append(tuple(str(r.state) for r in self.supervisor.running.values()))
            self._changed.notify_all()

    def __enter__(self) -> "Run":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.request_stop()
        self.join()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, 30), self.history

    def wait_ready(self) -> None:
        self.wait_until(lambda: self.supervisor.is_ready)

    def pid(self, name: str) -> int:
        pid = self.supervisor.running[name].pid
        assert pid is not None
        return pid

    def kill_and_wait_restarted(self, name: str) -> None:
        running = self.supervisor.running[name]
        restarts = running.restarts
        os.kill(self.pid(name), signal.SIGKILL)
        self.wait_until(lambda: running.restarts > restarts and running.state is PartState.READY)


def part(name: str, program: str = SLEEP, **options: object) -> Part:
    return Part(name=name, command=python(program), environment={"PATH": os.environ["PATH"]}, **options)  # type: ignore[arg-type]


def wait_gone(*pids: int) -> None:
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_parts_start_after_what_they_need_and_nothing_is_left(tmp_path: Path) -> None:
    with Run(tmp_path, part("first"), part("second", needs=("first",))) as run:
        run.wait_ready()
        assert run.history[0] == ("starting", "waiting")
        assert ("ready", "starting") in run.history
        pids = [run.pid("first"), run.pid("second")]
        assert set(processes.find_marked(run.mark)) == set(pids)
        assert processes.find_marked(run.mark, part="second") == [pids[1]]
    wait_gone(*pids)
    assert processes.find_marked(run.mark) == []
    assert run.history[-1] == ("stopped", "stopped")


def test_a_part_that_dies_is_started_again_and_takes_its_followers_along(tmp_path: Path) -> None:
    with Run(tmp_path, part("ray"), part("api"), part("scheduler", needs=("ray",), follows=("ray",))) as run:
        run.wait_ready()
        api, scheduler = run.pid("api"), run.pid("scheduler")
        os.kill(run.pid("ray"), signal.SIGKILL)
        running = run.supervisor.running
        run.wait_until(lambda: running["scheduler"].restarts == 1 and run.supervisor.is_ready)
        assert run.pid("scheduler") != scheduler
        assert run.pid("api") == api
        assert running["ray"].restarts == 1
        run.kill_and_wait_restarted("api")
        assert running["ray"].restarts == 1


def test_a_part_that_never_starts_ends_the_stack_with_its_log(tmp_path: Path) -> None:
    broken = part("broken", "import sys; sys.exit('no such database')", is_ready=lambda: False)
    with Run(tmp_path, part("fine"), broken) as run:
        run.join()
    assert "the broken did not start: it ended with code 1" in str(run.error)
    assert "no such database" in str(run.error)
    assert processes.find_marked(run.mark) == []


def test_a_part_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    with Run(tmp_path, part("deaf", is_ready=lambda: False, start_seconds=0.05)) as run:
        run.join()
    assert "not ready after" in str(run.error)


def test_a_task_is_done_once_and_its_output_is_private(tmp_path: Path) -> None:
    output = tmp_path / "key.json"
    task = part("task", "import sys; print('secret'); print('noise', file=sys.stderr)", once=True, output=output)
    with Run(tmp_path, task, part("after", needs=("task",))) as run:
        run.wait_ready()
        assert output.read_text() == "secret\n"
        assert output.stat().st_mode & 0o777 == 0o600
        assert "secret" not in (tmp_path / "task.log").read_text()
        assert run.supervisor.running["task"].restarts == 0


def test_a_tree_is_ended_with_everything_that_left_it(tmp_path: Path) -> None:
    with Run(tmp_path, part("ray", FAMILY, tree=True, stop_seconds=5)) as run:
        run.wait_ready()
        family = _wait_for_family(run.pid("ray"), size=2)
    wait_gone(*family)


def test_what_a_killed_tether_leaves_is_gone_before_the_restart(tmp_path: Path) -> None:
    with Run(tmp_path, part("ray", FAMILY, tree=True, stop_seconds=5)) as run:
        run.wait_ready()
        family = _wait_for_family(run.pid("ray"), size=2)
        run.kill_and_wait_restarted("ray")
        wait_gone(*family)


def _wait_for_family(root: int, *, size: int) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        family = tether.descendants_of(root)
        sessions = {os.getsid(pid) for pid in family}
        if len(family) == size and len(sessions) == size:
            return family
        threading.Event().wait(0.02)
    raise AssertionError(f"{family} below {root}")


HOST_PROGRAM = """
import os, sys, threading
from pathlib import Path
from api.stack.supervisor import Part, Supervisor
environment = {"PATH": os.environ["PATH"]}
folder = Path(sys.argv[1])
parts = [
    Part(name="plain", command=(sys.executable, "-c", sys.argv[2]), environment=environment),
    Part(name="tree", command=(sys.executable, "-c", sys.argv[3]), environment=environment, tree=True, stop_seconds=1),
]
supervisor = Supervisor(parts, mark=sys.argv[4], folder=folder, logs=folder)
supervisor.changed = lambda: supervisor.is_ready and print("ready", flush=True)
supervisor.run()
"""


@pytest.fixture
def killed_host(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    mark = f"host@{tmp_path}"
    process = subprocess.Popen(
        [sys.executable, "-c", HOST_PROGRAM, str(tmp_path), SLEEP, FAMILY, mark], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process, mark
    process.kill()
    process.wait()
    process.stdout.close()
    processes.kill_leftovers(mark)


def test_a_kill_9_of_the_supervising_process_leaves_nothing(killed_host: tuple[subprocess.Popen[str], str]) -> None:
    process, mark = killed_host
    (tree,) = [pid for pid in processes.find_marked(mark, part="tree") if os.getsid(pid) == pid]
    _wait_for_family(tree, size=2)
    below = tether.descendants_of(process.pid)
    assert len(below) == 4
    process.kill()
    wait_gone(*below)
    assert processes.find_marked(mark) == []


def test_leftovers_of_an_earlier_stack_are_found_by_their_mark(tmp_path: Path) -> None:
    old = subprocess.Popen(python(SLEEP), env={processes.MARK: f"old@{tmp_path}#ray"})
    other = subprocess.Popen(python(SLEEP), env={processes.MARK: f"older@{tmp_path}#ray"})
    try:
        assert processes.find_marked(f"old@{tmp_path}") == [old.pid]
        assert processes.kill_leftovers(f"old@{tmp_path}") == []
        assert old.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_large_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LARGEST_LOG_BYTES", 10)
    log = tmp_path / "api.log"
    processes.cap_log(log)
    log.write_text("12345")
    processes.cap_log(log)
    assert log.read_text() == "12345"
    log.write_text("first line\nlast line\n")
    assert processes.tail_of(log, lines=1) == "last line"
    processes.cap_log(log)
    assert log.read_text() == ""
    assert (tmp_path / "api.log.1").read_text() == "first line\nlast line\n"
