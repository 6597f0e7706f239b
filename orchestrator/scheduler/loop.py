"""The one shape of all loops: load facts, decide (pure), apply each decision.

Invariants: nothing but a deliberate stop ends a loop. What a decision is about is held back after an error, so that one
bad row neither stops the others nor fills the log. Without leadership no decision is applied.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from orchestrator.domain.errors import ConflictError, LeaseLostError, TunepoolError, UnavailableError
from orchestrator.scheduler.health import Health

Facts = TypeVar("Facts")
Decision = TypeVar("Decision")

FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 30.0
JITTER = 0.2
"""Intervals vary by this fraction, so that loops and control planes do not beat in step."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loop(Generic[Facts, Decision]):
    """`load` may read the database and the network, never both in one transaction. `decide` is pure.

    `apply` carries out one decision; killed at any point, the next pass finds the work again. It returns True when more
    of the same is already waiting. `subject` names what a decision is about. With `parallel` > 0 decisions are applied
    in that many threads, never two about one subject at once. `wakes` names the loops that have work after this one.
    """

    name: str
    interval_seconds: float
    load: Callable[[], Facts]
    decide: Callable[[Facts], Sequence[Decision]]
    apply: Callable[[Decision], bool | None]
    subject: Callable[[Decision], str]
    parallel: int = 0
    wakes: tuple[str, ...] = ()
    led: bool = True
    longest_back_off_seconds: float = LONGEST_BACK_OFF_SECONDS


class BackOff:
    """Doubling delays by key, from several threads; `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float], longest_seconds: float) -> None:
        self._clock = clock
        self._longest_seconds = longest_seconds
        self._lock = threading.Lock()
        self._until: dict[str, tuple[float, float]] = {}

    def remaining_seconds(self, key: str) -> float:
        with self._lock:
            until, _ = self._until.get(key, (0.0, 0.0))
        return max(0.0, until - self._clock())

    def extend(self, key: str) -> float:
        with self._lock:
            _, last = self._until.get(key, (0.0, 0.0))
            delay = min(self._longest_seconds, max(FIRST_BACK_OFF_SECONDS, 2 * last))
            self._until[key] = (self._clock() + delay, delay)
        return delay

    def clear(self, key: str) -> None:
        with self._lock:
            self._until.pop(key, None)

    def forget_old(self) -> None:
        """Drop keys whose delay ended long ago: their subjects are gone."""
        limit = self._clock() - 10 * LONGEST_BACK_OFF_SECONDS
        with self._lock:
            for key in [key for key, (until, _) in self._until.items() if until < limit]:
                del self._until[key]


class Runner(Generic[Facts, Decision]):
    """Runs one loop, in a thread by `run` or one pass at a time by `run_once`.

    `on_phase(loop, phase)` is called after each phase with
    "loaded", "decided", "applied" and "passed"; tests wait on it.
    """

    def __init__(
        self,
        loop: Loop[Facts, Decision],
        *,
        is_leading: Callable[[], bool],
        health: Health,
        on_phase: Callable[[str, str], None] = lambda loop, phase: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._is_leading = is_leading
        self._health = health
        self._on_phase = on_phase
        self._back_off = BackOff(clock, loop.longest_back_off_seconds)
        self._wake = threading.Event()
        self._wake_others: Callable[[Sequence[str]], None] = lambda names: None
        self._lock = threading.Lock()
        self._in_flight: set[str] = set()

    @property
    def name(self) -> str:
        return self._loop.name

    def wake(self) -> None:
        """Start the next pass now instead of after the interval."""
        self._wake.set()

    def connect(self, wake_others: Callable[[Sequence[str]], None]) -> None:
        """Say how the loops that this one wakes are reached."""
        self._wake_others = wake_others

    def run_once(self) -> bool:
        """One pass, every decision applied before it returns. True when more work is already waiting."""
        return self._pass(None)

    def run(self, stop: threading.Event) -> None:
        """Pass after pass until `stop` is set (and `wake` called); decisions under way are finished first."""
        parallel = self._loop.parallel
        pool = ThreadPoolExecutor(parallel, thread_name_prefix=self.name) if parallel else None
        try:
            while not stop.is_set():
                # Cleared before the pass: what wakes us during the pass is seen by the next one.
                self._wake.clear()
                if self._may_act() and self._pass(pool):
                    continue
                self._wake.wait(self._pause_seconds())
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _may_act(self) -> bool:
        return not self._loop.led or self._is_leading()

    def _pause_seconds(self) -> float:
        interval = self._loop.interval_seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not a secret
        return max(interval, self._back_off.remaining_seconds(""))

    def _pass(self, pool: ThreadPoolExecutor | None) -> bool:
        try:
            again = self._pass_once(pool)
        except Exception as error:
            self._note_error(error, "")
            return False
        self._back_off.clear("")
        self._back_off.forget_old()
        self._on_phase(self.name, "passed")
        return again

    def _pass_once(self, pool: ThreadPoolExecutor | None) -> bool:
        facts = self._loop.load()
        self._on_phase(self.name, "loaded")
        decisions = self._loop.decide(facts)
        self._on_phase(self.name, "decided")
        again = False
        applied = 0
        for decision in decisions:
            subject = self._loop.subject(decision)
            if not self._may_act():
                break
            if self._back_off.remaining_seconds(subject) or not self._take(subject):
                continue
            applied += 1
            if pool is not None:
                pool.submit(self._apply_and_wake, decision, subject)
            else:
                again |= self._apply(decision, subject)
                self._on_phase(self.name, "applied")
        self._health.note_pass(self.name, applied)
        if applied and pool is None:
            self._wake_others(self._loop.wakes)
        return again

    def _take(self, subject: str) -> bool:
        with self._lock:
            if subject in self._in_flight:
                return False
            self._in_flight.add(subject)
            return True

    def _apply_and_wake(self, decision: Decision, subject: str) -> None:
        if self._apply(decision, subject):
            self.wake()
        self._on_phase(self.name, "applied")
        self._wake_others(self._loop.wakes)

    def _apply(self, decision: Decision, subject: str) -> bool:
        try:
            again = bool(self._loop.apply(decision))
            self._back_off.clear(subject)
            return again
        except Exception as error:
            self._note_error(error, subject)
            return False
        finally:
            with self._lock:
                self._in_flight.discard(subject)

    def _note_error(self, error: Exception, subject: str) -> None:
        delay = self._back_off.extend(subject)
        about = {"loop": self.name, "subject": subject or None, "back_off_seconds": delay}
        if isinstance(error, LeaseLostError | ConflictError):
            # Someone else moved the row between load and apply; the next pass sees the new state.
            log.info("dropped a stale decision", reason=error.message, **about)
        elif isinstance(error, UnavailableError):
            log.warning("will try again", error=error.message, code=error.code, **about)
        elif isinstance(error, TunepoolError):
            log.error("could not apply a decision", error=error.message, code=error.code, **about)
        else:
            log.exception("programming error in a loop", **about)
            self._health.note_programming_error(self.name, error)
            return
        self._health.note_error(self.name, error)


def connect(runners: Sequence[Runner[Any, Any]]) -> Callable[[Sequence[str]], None]:
    """Let each runner wake the others by name; returns the function that does it ('*' is all)."""
    by_name = {runner.name: runner for runner in runners}

    def wake(names: Sequence[str]) -> None:
        for name in by_name if "*" in names else names:
            if name in by_name:
                by_name[name].wake()

    for runner in runners:
        runner.connect(wake)
    return wake
