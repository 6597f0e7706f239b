"""One tracer process: a JSON line in, a JSON line out, with a deadline for each.

Whatever goes wrong with it is a reason to end it and start another one, so every method that raises leaves a process
that is good for nothing but `stop`. Start, ask and stop it in one thread: the process dies with that thread.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.domain.errors import UntraceableError
from orchestrator.domain.ids import new_uuid7_hex
from orchestrator.runtime.child import Child, child_environment, start_child
from orchestrator.runtime.loglines import cut_text, plain_text
from orchestrator.runtime.processes import kill_attempt_processes, read_tree_bytes
from orchestrator.runtime.scratch import Scratch

ANSWER_BYTES = 64 * 1024
"""An answer has about 600; more is not an answer."""
LAST_WORDS_BYTES = 4096
WORN_SHARE = 0.5
"""Of its limit. The libraries alone take about a quarter of the default one."""
TICK_SECONDS = 0.1
"""Between looks at the process's memory, and at whether anybody still wants the answer."""
_KILL_SECONDS = 10.0
_END_SECONDS = 1.0
"""From the end of a process's output to its own; after that it is killed."""
_TETHER = Path(__file__).with_name("tether.py")


def default_command() -> tuple[str, ...]:
    """The workers' tracer, in the interpreter that runs this process."""
    return (sys.executable, "-m", "workers.estimator")


class TracerProcess:
    """Raises OSError when the command cannot be started."""

    def __init__(self, command: Sequence[str], *, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._folder = Scratch("tunepool-tracer-")
        self._mark = f"tracer-{new_uuid7_hex()}"
        work_dir = self._folder.path
        (work_dir / "tmp").mkdir()
        environment = child_environment(os.environ, attempt_id=self._mark, work_dir=work_dir)
        self._child: Child = start_child(
            (sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command),
            environment={**environment, "HF_HUB_OFFLINE": "1"},
            work_dir=work_dir,
        )
        self._asked = 0
        self._answers, self._last_words = bytearray(), bytearray()
        self._poll = select.poll()
        for handle in (self._child.stdout, self._child.stderr):
            os.set_blocking(handle, False)
            self._poll.register(handle, select.POLLIN)

    @property
    def is_warm(self) -> bool:
        """Whether it answered before, so that its libraries are loaded."""
        return self._asked > 0

    @property
    def is_worn(self) -> bool:
        """Whether it has grown so much that the next question may be too much for it."""
        return self._memory_share > WORN_SHARE

    @property
    def _memory_share(self) -> float:
        return read_tree_bytes(self._child.pid) / self._memory_bytes

    def ask(self, question: Mapping[str, Any], *, seconds: float, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        """Its answer. Raises UntraceableError with what happened to the process; then only `stop` is left."""
        number = self._asked + 1
        self._child.send({"id": number, **question})
        deadline = time.monotonic() + seconds
        while b"\n" not in self._answers:
            if not is_wanted():
                raise UntraceableError("the control plane is stopping")
            left = deadline - time.monotonic()
            if left <= 0:
                raise UntraceableError(f"the tracer gave no answer within {seconds:g} s")
            self._wait(min(left, TICK_SECONDS))
        line, _, rest = bytes(self._answers).partition(b"\n")
        self._answers[:] = rest
        answer = _parse(line)
        if answer is None or answer.get("id") != number:
            raise UntraceableError("the tracer answered with something else")
        self._asked = number
        return answer

    def stop(self) -> None:
        self._child.signal(signal.SIGKILL)
        kill_attempt_processes(self._mark, timeout_seconds=_KILL_SECONDS)
        self._child.process.wait()
        self._child.close()
        self._folder.remove()

    def _wait(self, seconds: float) -> None:
        self._child.flush()
        ready = self._poll.poll(seconds * 1000)
        for handle, _ in ready:
            self._read(handle)
        if len(self._answers) > ANSWER_BYTES:
            raise UntraceableError("the tracer answered with something else")
        if not ready and self._memory_share > 1:
            raise UntraceableError(f"the tracer needed more than {self._memory_bytes // 2**20} MiB")

    def _read(self, handle: int) -> None:
        data = b""
        with suppress(BlockingIOError):
            data = os.read(handle, 64 * 1024)
        if handle == self._child.stderr:
            self._last_words += data
            del self._last_words[:-LAST_WORDS_BYTES]
            if not data:
                self._poll.unregister(handle)
        elif data:
            self._answers += data
        else:
            raise UntraceableError(self._describe_end())

    def _describe_end(self) -> str:
        """It closed its output, so it is ending; what it said last is read to its end."""
        try:
            code = self._child.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.signal(signal.SIGKILL)
            code = self._child.process.wait()
        with suppress(OSError):
            while data := os.read(self._child.stderr, 64 * 1024):
                self._last_words += data
        lines = [plain_text(line).strip() for line in self._last_words.decode(errors="replace").splitlines()]
        last = cut_text(next((line for line in reversed(lines) if line), "it said nothing"), 200)
        return f"the tracer ended with {code}: {last}"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
