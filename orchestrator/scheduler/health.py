"""How the loops are doing, for a probe: passes, errors, and programming errors, which are counted and never fatal.

The file is replaced whole, so a reader never sees half of it.
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.domain.errors import TunepoolError


@dataclass(frozen=True, kw_only=True)
class LoopHealth:
    """`last_pass_at_unix` is this machine's clock, for display and for a probe's comparison."""

    passes: int = 0
    decisions: int = 0
    errors: int = 0
    programming_errors: int = 0
    last_error: str | None = None
    last_pass_at_unix: float | None = None


class Health:
    """Counters by loop, safe to use from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: dict[str, LoopHealth] = {}

    def note_pass(self, loop: str, decisions: int) -> None:
        with self._lock:
            old = self._loops.get(loop, LoopHealth())
            self._loops[loop] = replace(
                old, passes=old.passes + 1, decisions=old.decisions + decisions, last_pass_at_unix=time.time()
            )

    def note_error(self, loop: str, error: Exception) -> None:
        text = error.code if isinstance(error, TunepoolError) else type(error).__name__
        with self._lock:
            old = self._loops.get(loop, LoopHealth())
            self._loops[loop] = replace(old, errors=old.errors + 1, last_error=text)

    def note_programming_error(self, loop: str, error: Exception) -> None:
        self.note_error(loop, error)
        with self._lock:
            old = self._loops[loop]
            self._loops[loop] = replace(old, programming_errors=old.programming_errors + 1)

    @property
    def programming_errors(self) -> int:
        with self._lock:
            return sum(loop.programming_errors for loop in self._loops.values())

    def snapshot(self) -> dict[str, LoopHealth]:
        with self._lock:
            return dict(self._loops)

    def write(self, path: Path, *, leading: bool) -> None:
        """Replace the health file. A full disk must not stop the loops, so OSError is the caller's to note."""
        body = {
            "pid": os.getpid(),
            "written_at_unix": time.time(),
            "leading": leading,
            "programming_errors": self.programming_errors,
            "loops": {name: asdict(loop) for name, loop in sorted(self.snapshot().items())},
        }
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(body, indent=1))
        draft.replace(path)
