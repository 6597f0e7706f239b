"""Which processes of an attempt live on this machine, how much memory do they hold, and how are they ended for certain?

Every process of an attempt carries TUNEPOOL_ATTEMPT_ID in its environment, also one that left for a session of its own,
which neither the death of its parent nor Ray's clean-up reaches. Process ids are used again by the kernel, so a process
is always named by its id and its start.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ATTEMPT_VARIABLE = "TUNEPOOL_ATTEMPT_ID"
_POLL_SECONDS = 0.02
_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessName:
    """`start_ticks` is the clock tick, counted from boot, at which the process started."""

    pid: int
    start_ticks: int


def name_process(pid: int) -> ProcessName | None:
    """None when there is no such process, or nothing but its exit code is left."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    state, start_ticks = fields[0], int(fields[19])
    if state in "ZX" and len(_threads(pid)) <= 1:
        return None
    return ProcessName(pid, start_ticks)


def _threads(pid: int) -> list[str]:
    """A process whose first thread is a zombie still holds its memory while another thread is on its way out."""
    try:
        return os.listdir(_PROC / str(pid) / "task")
    except OSError:
        return []


def find_attempt_processes(attempt_id: str) -> set[ProcessName]:
    """Every process that was started with this attempt's mark in its environment, but for the caller itself."""
    mark = f"{ATTEMPT_VARIABLE}={attempt_id}".encode()
    found = set()
    for entry in os.listdir(_PROC):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        # Unreadable means another user's process, which cannot be an attempt's: those run as the user of the cluster.
        with suppress(OSError):
            if mark in (_PROC / entry / "environ").read_bytes().split(b"\0"):
                name = name_process(int(entry))
                found.update([name] if name else [])
    return found


def read_environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it cannot be read."""
    try:
        pairs = (_PROC / str(pid) / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def kill_attempt_processes(attempt_id: str, *, timeout_seconds: float) -> bool:
    """Kill every process of the attempt; True on proof that none is left. May be repeated."""
    deadline = time.monotonic() + timeout_seconds
    remaining: set[ProcessName] = set()
    while True:
        # One that is dying shows no environment any more but may still hold its device, so it is followed to its end.
        remaining |= find_attempt_processes(attempt_id)
        remaining = {process for process in remaining if is_alive(process)}
        if not remaining:
            return True
        if time.monotonic() > deadline:
            return False
        for process in remaining:
            kill_process(process)
        time.sleep(_POLL_SECONDS)


def is_alive(process: ProcessName) -> bool:
    return name_process(process.pid) == process


def kill_process(process: ProcessName) -> None:
    """SIGKILL, unless the process id belongs to another process by now."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        # The handle was opened before the start is compared, so it cannot mean a later process.
        if is_alive(process):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def wait_until_gone(processes: Iterable[ProcessName], *, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    waiting = [process for process in processes if is_alive(process)]
    while waiting and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        waiting = [process for process in waiting if is_alive(process)]
    return not waiting


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def read_tree_bytes(pid: int) -> int:
    """Resident memory of a process and all below it: the process's own high-water mark, the others as they are now."""
    return _status_bytes(pid, "VmHWM") + sum(_status_bytes(below, "VmRSS") for below in _pids_below(pid))


def _pids_below(pid: int) -> list[int]:
    """Asked from the process down: looking through all processes of the machine once a second would cost too much."""
    found: list[int] = []
    for thread in _threads(pid):
        with suppress(OSError):
            children = (_PROC / str(pid) / "task" / thread / "children").read_text().split()
            found += [below for child in map(int, children) for below in (child, *_pids_below(child))]
    return found


def _status_bytes(pid: int, name: str) -> int:
    """A figure of proc(5)'s status file. VmHWM is the kernel's own mark, so a peak between two looks is not missed."""
    with suppress(OSError, ValueError), open(_PROC / str(pid) / "status", errors="replace") as status:
        for line in status:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
