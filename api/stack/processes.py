"""Starting, ending and finding the processes of a stack.

Each child runs in a session of its own, so that a Ctrl-C at the terminal reaches the supervising process alone, and
under a tether, so that none outlives that process. Children carry a mark in their environment by which leftovers are
found.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from api.stack import tether

MARK = "STACK_OF_TUNEPOOL"
"""Not below the prefix TUNEPOOL_, which is that of settings."""
LARGEST_LOG_BYTES = 20 * 1024**2


def spawn(
    command: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    log: Path,
    output: Path | None,
    tree_grace_seconds: float | None,
    folder: Path,
) -> subprocess.Popen[bytes]:
    """Start a tethered command that appends to a log, and writes its standard output to a private file if one is given.

    The kernel ends the command with the thread that called this, so call it from the one that lives longest.
    """
    hold = [] if tree_grace_seconds is None else ["--tree", str(tree_grace_seconds)]
    with ExitStack() as files:
        errors = files.enter_context(log.open("ab"))
        if output is not None:
            output.unlink(missing_ok=True)
            output.touch(mode=0o600)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *hold, *command],
            stdin=subprocess.DEVNULL,
            stdout=errors if output is None else files.enter_context(output.open("wb")),
            stderr=errors,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """Ask the process to end, and kill it after the grace. Returns when it is gone."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def mark_of(stack_id: str, folder: Path) -> str:
    """The folder is part of it, so that a copied data folder is another stack."""
    return f"{stack_id}@{folder}"


def find_marked(mark: str, *, part: str | None = None) -> list[int]:
    """Living processes, other than this one, that carry the mark of a stack, or of one part of it."""
    start = f"{MARK}={mark}#{part or ''}".encode()
    found = []
    for pid in tether.parents():
        if pid == os.getpid() or tether.is_zombie(pid):
            continue
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(entry == start if part else entry.startswith(start) for entry in environment):
            found.append(pid)
    return found


def kill_leftovers(mark: str, *, part: str | None = None, wait_seconds: float = 10) -> list[int]:
    """Kill what carries the mark and everything below it; returns what could not be killed, normally nothing."""
    deadline = time.monotonic() + wait_seconds
    while True:
        found = find_marked(mark, part=part)
        if not found or time.monotonic() > deadline:
            return found
        for pid in found:
            tether.kill_descendants(pid, wait_seconds=wait_seconds)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def cap_log(log: Path) -> None:
    """Move a log that grew over its cap aside, replacing the one before. Writers append, so truncation is safe."""
    try:
        if log.stat().st_size <= LARGEST_LOG_BYTES:
            return
    except FileNotFoundError:
        return
    content = log.read_bytes()
    log.with_suffix(".log.1").write_bytes(content)
    os.truncate(log, 0)


def tail_of(log: Path, *, lines: int = 8) -> str:
    """The last lines of a log, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
