"""Ties the life of a command to the process that started it, so that a `kill -9` of the stack leaves nothing behind.

Run as a file by an isolated interpreter (`python -I -S tether.py PARENT_PID [--tree SECONDS] COMMAND…`), with nothing
but the standard library, so that it costs a few milliseconds.

- Without `--tree` it asks the kernel to kill this process when the parent dies, and becomes the command.
- With `--tree` it stays above the command as the reaper of every orphan below it. When the command ends, when it is
  asked to end (SIGTERM), or when the parent dies, it ends the command, gives it that many seconds, and then kills the
  whole tree: also processes that left for a session of their own, as Ray's actors do.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
"""Both from linux/prctl.h."""
_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def main(argv: list[str]) -> int:
    parent_pid = int(argv[0])
    if argv[1] == "--tree":
        return hold_tree(argv[3:], parent_pid=parent_pid, grace_seconds=float(argv[2]))
    die_with(parent_pid, signal.SIGKILL)
    os.execvp(argv[1], argv[1:])  # noqa: S606


def die_with(parent_pid: int, death_signal: signal.Signals) -> None:
    """Have the kernel send the signal when the parent dies; end at once when it died already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(1)


def become_reaper() -> None:
    """Orphans below this process become its children, and not those of process 1."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hold_tree(command: list[str], *, parent_pid: int, grace_seconds: float) -> int:
    """Run the command and return its exit code once nothing of its tree is left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    become_reaper()
    die_with(parent_pid, signal.SIGTERM)
    child = subprocess.Popen(
        command,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED),  # noqa: PLW1509 (one thread here)
    )
    deadline: float | None = None
    while child.poll() is None:
        received = signal.sigtimedwait(_WATCHED, 0.5)
        if received is not None and received.si_signo != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + grace_seconds
            child.terminate()
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
        reap_orphans(except_pid=child.pid)
    kill_descendants(os.getpid())
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def reap_orphans(*, except_pid: int | None = None) -> None:
    """Collect the exit of every child but the one that a Popen object waits for."""
    for pid in children_of(os.getpid()):
        if pid != except_pid:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def kill_descendants(root_pid: int, *, keep: frozenset[int] = frozenset(), wait_seconds: float = 20) -> list[int]:
    """SIGKILL everything below a process but the kept; returns what is still there after the wait, normally nothing."""
    deadline = time.monotonic() + wait_seconds
    while True:
        alive = [pid for pid in descendants_of(root_pid, keep=keep) if not is_zombie(pid)]
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for pid in children_of(root_pid):
            if pid not in keep:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.02)


def descendants_of(root_pid: int, *, keep: frozenset[int] = frozenset()) -> list[int]:
    """Every process below, parents first; a kept process is left out with everything below it."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [root_pid]
    while waiting:
        below = [pid for pid in children.get(waiting.pop(), []) if pid not in keep]
        found += below
        waiting += below
    return found


def children_of(root_pid: int) -> list[int]:
    return [pid for pid, parent in parents().items() if parent == root_pid]


def parents() -> dict[int, int]:
    """The parent of every process that /proc shows now."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                found[int(entry.name)] = int(fields[1])
    return found


def is_zombie(pid: int) -> bool:
    fields = _stat(pid)
    return fields is None or fields[0] == "Z"


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name, which may itself hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
