"""A worker process that is asked one thing, answers with one line and ends: with limits, and nothing of it left behind.

What it reads may be a user's, so it may crash, hang or eat memory; that ends in an error, never in this process.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.ids import new_uuid7_hex
from orchestrator.runtime.child import (
    Child,
    child_environment,
    default_command,
    read_chunks,
    start_child,
    write_private,
)
from orchestrator.runtime.processes import kill_attempt_processes, read_tree_bytes
from orchestrator.runtime.scratch import Scratch

TICK_SECONDS = 0.2
RESULT_BYTES = 1024 * 1024
OUTPUT_BYTES = 16 * 1024
"""Of the process's last words."""
_KILL_SECONDS = 10.0
Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Errand:
    """`verb` is the worker's command, `name` what errors call it by (`validation_timeout`), `subject` in sentences.

    `spec` is JSON text that the worker gets as a file."""

    verb: str
    name: str
    subject: str
    spec: str
    time_seconds: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`line` is the answer, empty when there was none; `stderr` the end of what else was said."""

    line: bytes
    stderr: bytes
    exit_code: int


def read_answer(outcome: Outcome, kind: type[Answer]) -> Answer | None:
    """What the process answered; None when it did not end well, or said something else."""
    if outcome.exit_code == 0 and outcome.line:
        with suppress(ValidationError):
            return kind.model_validate_json(outcome.line)
    return None


def run_errand(
    errand: Errand, *, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Raises TunepoolError when it took too long or too much memory. The process dies with the calling thread."""
    mark = f"{errand.name}-{new_uuid7_hex()}"
    folder = Scratch("tunepool-errand-")
    try:
        (folder.path / "tmp").mkdir()
        spec_path = folder.path / "spec.json"
        write_private(spec_path, errand.spec)
        base = os.environ if environment is None else environment
        child = start_child(
            (*(command or default_command()), errand.verb, str(spec_path)),
            environment=child_environment(base, attempt_id=mark, work_dir=folder.path),
            work_dir=folder.path,
        )
        tails = [_Tail(handle, size) for handle, size in _pipes_of(child)]
        try:
            _wait(child, errand)
        finally:
            child.signal(signal.SIGKILL)
            kill_attempt_processes(mark, timeout_seconds=_KILL_SECONDS)
            exit_code = child.process.wait()
            reports, _, stderr = [tail.join() for tail in tails]
            child.close()
    finally:
        folder.remove()
    return Outcome(line=reports.split(b"\n", 1)[0], stderr=stderr, exit_code=exit_code)


class _Tail:
    """The last bytes of a pipe, read by a thread of its own."""

    def __init__(self, handle: int, limit_bytes: int) -> None:
        self._kept = bytearray()
        self._limit_bytes = limit_bytes
        self._thread = threading.Thread(target=self._read, args=(handle,), daemon=True)
        self._thread.start()

    def join(self) -> bytes:
        self._thread.join(_KILL_SECONDS)
        return bytes(self._kept)

    def _read(self, handle: int) -> None:
        for chunk in read_chunks(handle):
            self._kept += chunk
            del self._kept[: -self._limit_bytes]


def _pipes_of(child: Child) -> list[tuple[int, int]]:
    return [(child.reports, RESULT_BYTES), (child.stdout, OUTPUT_BYTES), (child.stderr, OUTPUT_BYTES)]


def _wait(child: Child, errand: Errand) -> None:
    deadline = time.monotonic() + errand.time_seconds
    handle = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(TICK_SECONDS * 1000):
            if time.monotonic() > deadline:
                message = f"{errand.subject} took longer than {errand.time_seconds:g} s."
                raise TunepoolError(message, code=f"{errand.name}_timeout")
            if read_tree_bytes(child.pid) > errand.memory_bytes:
                message = f"{errand.subject} needed more than {errand.memory_bytes // 1024**2} MiB of memory."
                raise TunepoolError(message, code=f"{errand.name}_out_of_memory")
    finally:
        os.close(handle)
