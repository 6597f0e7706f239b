"""What this process noticed about supervisors and need not outlive it: a restarted control plane notices it again.

Times are monotonic seconds.
"""

import threading
import time
from collections.abc import Callable, Collection

from orchestrator.scheduler.loop import BackOff

LONGEST_REST_SECONDS = 10.0
"""Well below every sensible lease, so that a worker that answers again is heard in time."""


class Contacts:
    """Shared by the loops that launch, watch and reap."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._gone_since: dict[str, float] = {}
        self._outcome_since: dict[str, float] = {}
        self._launching: set[str] = set()
        self._silence = BackOff(clock, LONGEST_REST_SECONDS)

    def note_launching(self, attempt_id: str) -> None:
        """This process is about to ask for the attempt's supervisor, which therefore need not exist yet."""
        with self._lock:
            self._launching.add(attempt_id)

    def note_launched(self, attempt_id: str) -> None:
        with self._lock:
            self._launching.discard(attempt_id)
            self._gone_since.pop(attempt_id, None)

    def is_launching(self, attempt_id: str) -> bool:
        with self._lock:
            return attempt_id in self._launching

    def note_answer(self, attempt_id: str) -> None:
        with self._lock:
            self._gone_since.pop(attempt_id, None)
        self._silence.clear(attempt_id)

    def note_silent(self, attempt_id: str) -> None:
        """It did not answer in time. It is asked less often, so that its silence does not slow down all others."""
        self._silence.extend(attempt_id)

    def is_rested(self, attempt_id: str) -> bool:
        """Whether it is to be asked now."""
        return not self._silence.remaining_seconds(attempt_id)

    def note_gone(self, attempt_id: str) -> None:
        """The cluster knows no such supervisor. The first moment stays until it answers again."""
        with self._lock:
            self._gone_since.setdefault(attempt_id, self._clock())

    def gone_seconds(self, attempt_id: str) -> float | None:
        """For how long the supervisor has been gone; None when it is not known to be."""
        with self._lock:
            since = self._gone_since.get(attempt_id)
        return None if since is None else self._clock() - since

    def note_outcome(self, attempt_id: str) -> float:
        """The journal holds an outcome; returns for how many seconds we have known."""
        with self._lock:
            return self._clock() - self._outcome_since.setdefault(attempt_id, self._clock())

    def keep(self, attempt_ids: Collection[str]) -> None:
        """Forget all other attempts."""
        wanted = set(attempt_ids)
        with self._lock:
            for notes in (self._gone_since, self._outcome_since):
                for attempt_id in notes.keys() - wanted:
                    del notes[attempt_id]
