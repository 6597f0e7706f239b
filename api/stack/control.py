"""A stack in the background: start it, end it, ask how it is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from api.stack import processes, tether
from api.stack.errors import StackError
from api.stack.folder import DataFolder, is_locked, load_secrets, open_folder
from api.stack.state import StackStatus, find_last_status, find_status
from api.stack.up import Options

POLL_SECONDS = 0.1
START_SECONDS = 300.0
STOP_SECONDS = 60.0
FIRST_WORD_SECONDS = 10.0
_started: dict[int, subprocess.Popen[bytes]] = {}
"""Stacks that this process started and has not seen end: their exit is collected by `stop`."""


def start_detached(options: Options, changed: Callable[[StackStatus], None], *, outlive: bool = True) -> StackStatus:
    """Start a stack in the background and wait until it is ready. Raises StackError when it is not.

    It outlives this process, or else ends with it, and with the thread that called this, however they end.
    """
    folder = open_folder(options.data_dir)
    if is_locked(folder):
        raise StackError(f"a stack runs on {folder.root} already; end it with `tunepool down`")
    log = folder.logs / "stack.log"
    command = [sys.executable, "-m", "api.stack", "--data-dir", str(folder.root)]
    if options.api_port is not None:
        command += ["--port", str(options.api_port)]
    if options.cpu_memory_gib is not None:
        command += ["--cpu-memory-gib", str(options.cpu_memory_gib)]
    tie = [] if outlive else [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*tie, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder.root,
            start_new_session=True,
        )
    _started[process.pid] = process
    try:
        return _wait_ready(folder, process, changed)
    except BaseException:
        process.terminate()
        _started.pop(process.pid).wait()
        raise


def _wait_ready(
    folder: DataFolder, process: subprocess.Popen[bytes], changed: Callable[[StackStatus], None]
) -> StackStatus:
    deadline = time.monotonic() + START_SECONDS
    shown: StackStatus | None = None
    while time.monotonic() < deadline:
        status = find_last_status(folder)
        if status is not None and status.pid == process.pid and status != shown:
            shown = status
            changed(status)
            if status.phase == "ready":
                return status
        if process.poll() is not None:
            reason = shown.message if shown is not None else processes.tail_of(folder.logs / "stack.log")
            raise StackError(reason or f"the stack ended with code {process.returncode}; see {folder.logs}")
        time.sleep(POLL_SECONDS)
    raise StackError(f"the stack was not ready after {START_SECONDS:.0f} s; see {folder.logs}")


def _find_running(folder: DataFolder) -> StackStatus | None:
    """The status of the stack of a folder. One that has only just begun is given a moment to tell who it is."""
    deadline = time.monotonic() + FIRST_WORD_SECONDS
    while is_locked(folder) and time.monotonic() < deadline:
        status = find_status(folder)
        if status is not None:
            return status
        time.sleep(POLL_SECONDS)
    return None


def stop(folder: DataFolder) -> StackStatus | None:
    """End the stack of a folder and wait until nothing of it runs; None when none ran."""
    status = _find_running(folder)
    if status is None:
        return None
    os.kill(status.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_locked(folder):
        if time.monotonic() > deadline:
            os.kill(status.pid, signal.SIGKILL)
            processes.kill_leftovers(processes.mark_of(load_secrets(folder).stack_id, folder.root))
            break
        time.sleep(POLL_SECONDS)
    own = _started.pop(status.pid, None)
    if own is not None:
        own.wait()
    return status
