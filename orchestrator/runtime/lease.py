"""May this caller give orders to a supervisor, how long may it be silent, and when is a process that must stop killed?

Both clocks are monotonic and of the node itself: no clock of another machine can end an attempt or keep it alive.
"""

import signal
import threading
import time
from collections.abc import Callable

from orchestrator.domain.errors import LeaseLostError
from orchestrator.domain.protocol import StopReason
from orchestrator.runtime.child import Child

TERM_SECONDS = 5.0
"""Between the end of the grace, when SIGTERM is sent, and SIGKILL."""

Clock = Callable[[], float]


class Lease:
    """Fences by generation: the highest that has called wins. Thread-safe."""

    def __init__(self, *, generation: int, seconds: float, clock: Clock = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._generation = generation
        self._contact_at = clock()
        self.seconds = seconds

    def accept(self, generation: int) -> None:
        """Raises LeaseLostError when a newer generation has called before."""
        with self._lock:
            if generation < self._generation:
                raise LeaseLostError
            self._generation = generation

    def renew(self) -> None:
        with self._lock:
            self._contact_at = self._clock()

    @property
    def silent_seconds(self) -> float:
        with self._lock:
            return self._clock() - self._contact_at

    @property
    def is_over(self) -> bool:
        return self.silent_seconds > self.seconds


class Ending:
    """Asks a child to stop, then sends SIGTERM, then SIGKILL, to it and its process group.

    Orders come from any thread; signals are sent by `enforce` alone, which is called only while the child has not been
    waited for, because until then its process id cannot mean another process.
    """

    def __init__(self, child: Child, *, term_seconds: float = TERM_SECONDS, clock: Clock = time.monotonic) -> None:
        self._child = child
        self._term_seconds = term_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._term_at: float | None = None
        self._kill_at: float | None = None
        self._is_termed = False

    @property
    def is_asked(self) -> bool:
        with self._lock:
            return self._term_at is not None

    def ask(self, stop: StopReason, grace_seconds: float) -> None:
        """Ask now and set the deadline; a later call passes its reason on and can only bring the deadline forward."""
        with self._lock:
            self._child.send({"stop": stop.model_dump()})
            self._set_deadline(self._clock() + max(0.0, grace_seconds))

    def kill_soon(self) -> None:
        with self._lock:
            self._set_deadline(self._clock() - self._term_seconds)

    def enforce(self) -> bool:
        """Send the signals that are due; True when the deadline passed just now."""
        with self._lock:
            now = self._clock()
            if self._term_at is None or now < self._term_at:
                return False
            is_news, self._is_termed = not self._is_termed, True
            assert self._kill_at is not None
            self._child.signal(signal.SIGKILL if now >= self._kill_at else signal.SIGTERM)
            return is_news

    def flush(self) -> None:
        with self._lock:
            self._child.flush()

    def send_grant(self, grant: dict[str, object]) -> None:
        with self._lock:
            self._child.send({"grant": grant})

    def close(self) -> None:
        """Ends the child's input; orders that come later go nowhere."""
        with self._lock:
            self._child.close_orders()

    def _set_deadline(self, term_at: float) -> None:
        self._term_at = term_at if self._term_at is None else min(self._term_at, term_at)
        self._kill_at = self._term_at + self._term_seconds
