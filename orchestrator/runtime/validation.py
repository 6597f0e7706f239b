"""What does the worker's own tokenizer say of a job's files? Asked of a process of its own with limits.

A file is a user's, so the process that reads it may crash, hang or eat memory; that ends in an error, never in this
process. Nothing of it is left behind.
"""

import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.ids import new_uuid7_hex
from orchestrator.domain.protocol import ValidationResult, ValidationSpec
from orchestrator.runtime.child import (
    Child,
    child_environment,
    default_command,
    read_chunks,
    start_child,
    write_private,
)
from orchestrator.runtime.loglines import Redactor, cut_text, plain_text
from orchestrator.runtime.processes import kill_attempt_processes, read_tree_bytes

TIME_LIMIT_SECONDS = 600.0
"""Tokenizing the largest file that is accepted (512 MiB) takes about four minutes on one core."""
MEMORY_LIMIT_BYTES = 4 * 1024**3
TICK_SECONDS = 0.2
RESULT_BYTES = 1024 * 1024
OUTPUT_BYTES = 16 * 1024
"""Of the process's last words."""
_KILL_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class ValidationLimits:
    time_seconds: float = TIME_LIMIT_SECONDS
    memory_bytes: int = MEMORY_LIMIT_BYTES


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


def run_validation(
    spec: ValidationSpec,
    *,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    limits: ValidationLimits | None = None,
) -> ValidationResult:
    """Run `workers validate` to its end. Raises TunepoolError, with a code that says why there is no result.

    Call it from a thread that waits: the process dies with it.
    """
    limits = limits or ValidationLimits()
    mark = f"validation-{new_uuid7_hex()}"
    with tempfile.TemporaryDirectory(prefix="tunepool-", ignore_cleanup_errors=True) as folder:
        work_dir = Path(folder)
        (work_dir / "tmp").mkdir()
        spec_path = work_dir / "spec.json"
        write_private(spec_path, spec.model_dump_json())
        base = os.environ if environment is None else environment
        child = start_child(
            (*(command or default_command()), "validate", str(spec_path)),
            environment=child_environment(base, attempt_id=mark, work_dir=work_dir, device=None),
            work_dir=work_dir,
        )
        tails = [_Tail(handle, size) for handle, size in _pipes_of(child)]
        try:
            _wait(child, limits)
        finally:
            child.signal(signal.SIGKILL)
            kill_attempt_processes(mark, timeout_seconds=_KILL_SECONDS)
            exit_code = child.process.wait()
            reports, _, stderr = [tail.join() for tail in tails]
            child.close()
    return _read_result(reports, exit_code, last_words=_last_line(stderr, spec))


def _pipes_of(child: Child) -> list[tuple[int, int]]:
    return [(child.reports, RESULT_BYTES), (child.stdout, OUTPUT_BYTES), (child.stderr, OUTPUT_BYTES)]


def _wait(child: Child, limits: ValidationLimits) -> None:
    deadline = time.monotonic() + limits.time_seconds
    handle = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(TICK_SECONDS * 1000):
            if time.monotonic() > deadline:
                seconds = f"{limits.time_seconds:g}"
                raise TunepoolError(f"Checking the files took longer than {seconds} s.", code="validation_timeout")
            if read_tree_bytes(child.pid) > limits.memory_bytes:
                mebibytes = limits.memory_bytes // 1024**2
                message = f"Checking the files needed more than {mebibytes} MiB of memory."
                raise TunepoolError(message, code="validation_out_of_memory")
    finally:
        os.close(handle)


def _read_result(reports: bytes, exit_code: int, *, last_words: str) -> ValidationResult:
    line = reports.split(b"\n", 1)[0]
    if exit_code == 0 and line:
        try:
            return ValidationResult.model_validate_json(line)
        except ValidationError:
            last_words = "its answer cannot be read"
    message = f"The process that checks files ended with {exit_code}: {last_words or 'it said nothing'}"
    raise TunepoolError(message, code="validation_crashed")


def _last_line(stderr: bytes, spec: ValidationSpec) -> str:
    redactor = Redactor()
    redactor.add([spec.model.hub_token])
    for file in (spec.training_file, spec.validation_file, *spec.model.files):
        if file is not None:
            redactor.add_url(file.url)
    lines = [plain_text(line).strip() for line in stderr.decode(errors="replace").splitlines()]
    return cut_text(redactor.clean(next((line for line in reversed(lines) if line), "")), 500)
