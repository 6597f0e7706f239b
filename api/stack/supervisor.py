"""Keeps the parts of a stack running: starts them in order, restarts those that die, ends them in reverse order.

One thread, one loop: each pass looks at every part once and moves it on by at most one step.
A part that others follow (Ray, for the scheduler) takes them with it when it comes back.
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Event

from api.stack import processes
from api.stack.errors import StackError

PASS_SECONDS = 0.1
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A part that was ready for this long starts with the first delay again."""
FAILED_STARTS = 3
"""Starts of a part that may fail before it was ready once; then the whole stack gives up and says why."""
LOG_CHECK_SECONDS = 5.0


class PartState(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the stack. `is_ready` is asked while it starts; it may block for a second at most.

    `once` marks a task: ready when it has ended with 0. `tree` kills everything below the process with it.
    `output` takes the standard output, which otherwise goes to the log; `after_end` is called when the stack ends.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool] = lambda: True
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    before_start: Callable[[], None] = lambda: None
    after_end: Callable[[], None] = lambda: None
    output: Path | None = None
    once: bool = False
    tree: bool = False
    start_seconds: float = 60.0
    stop_seconds: float = 10.0


@dataclass(kw_only=True)
class Running:
    """What is known of a part now. Times are of the monotonic clock."""

    part: Part
    state: PartState = PartState.WAITING
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    failures: int = 0
    was_ready: bool = False
    started: float = 0.0
    ready: float = 0.0
    start_after: float = 0.0
    last_exit: int | None = None
    cause: str = ""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.poll() is None else None


@dataclass
class Supervisor:
    """`changed` is called, in the supervising thread, whenever a part's state changes."""

    parts: Sequence[Part]
    mark: str
    folder: Path
    logs: Path
    changed: Callable[[], None] = lambda: None
    running: dict[str, Running] = field(init=False)
    _stop: Event = field(init=False, default_factory=Event)
    _hurry: Event = field(init=False, default_factory=Event)
    _logs_checked: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.running = {part.name: Running(part=part) for part in self.parts}

    @property
    def is_ready(self) -> bool:
        return all(running.state is PartState.READY for running in self.running.values())

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Ask the loop to end; asked twice, nothing is waited for any more. Safe in a signal handler."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def run(self) -> None:
        """Run until a stop is asked for. Raises StackError when a part cannot be started at all.

        However it ends, no process of the stack is left.
        """
        try:
            while not self._stop.is_set():
                self.step()
                self._stop.wait(PASS_SECONDS)
        finally:
            self.stop()

    def step(self) -> None:
        """Look at every part once."""
        for running in self.running.values():
            self._move(running)
        if time.monotonic() - self._logs_checked > LOG_CHECK_SECONDS:
            self._logs_checked = time.monotonic()
            for name in self.running:
                processes.cap_log(self.log_of(name))

    def stop(self) -> None:
        """End every part, the last started first, and then whatever is left below this process."""
        self._stop.set()
        for running in reversed(self.running.values()):
            if running.process is not None:
                self._end(running)
                running.part.after_end()
            self._set(running, PartState.STOPPED)
        left = processes.kill_leftovers(self.mark)
        if left:
            raise StackError(f"these processes could not be killed: {', '.join(map(str, left))}")

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _move(self, running: Running) -> None:
        now = time.monotonic()
        match running.state:
            case PartState.WAITING | PartState.RESTARTING:
                if now >= running.start_after and self._can_start(running.part):
                    self._start(running)
            case PartState.STARTING:
                self._watch_start(running, now)
            case PartState.READY:
                if not running.part.once and running.process is not None and running.process.poll() is not None:
                    self._fell(running, now)
            case PartState.STOPPED:
                pass

    def _can_start(self, part: Part) -> bool:
        return all(self.running[name].state is PartState.READY for name in part.needs)

    def _start(self, running: Running) -> None:
        part = running.part
        processes.kill_leftovers(self.mark, part=part.name)
        part.before_start()
        running.started = time.monotonic()
        running.process = processes.spawn(
            part.command,
            environment={**part.environment, processes.MARK: f"{self.mark}#{part.name}"},
            log=self.log_of(part.name),
            output=part.output,
            tree_grace_seconds=part.stop_seconds if part.tree else None,
            folder=self.folder,
        )
        self._set(running, PartState.STARTING)

    def _watch_start(self, running: Running, now: float) -> None:
        assert running.process is not None, "a starting part has a process"
        code = running.process.poll()
        if code is not None and not (running.part.once and code == 0):
            self._fell(running, now)
        elif running.part.once:
            if code == 0:
                self._became_ready(running, now)
        elif running.part.is_ready():
            self._became_ready(running, now)
        elif now - running.started > running.part.start_seconds:
            running.cause = f"not ready after {running.part.start_seconds:.0f} s"
            self._end(running)
            self._fell(running, now)

    def _became_ready(self, running: Running, now: float) -> None:
        again = running.was_ready
        running.was_ready = True
        running.ready = now
        running.cause = ""
        self._set(running, PartState.READY)
        if again:
            for other in self.running.values():
                if running.part.name in other.part.follows and other.process is not None:
                    self._end(other)
                    other.restarts += 1
                    other.cause = f"{running.part.name} was restarted"
                    self._set(other, PartState.RESTARTING)

    def _fell(self, running: Running, now: float) -> None:
        """Plan the restart of a part that ended by itself. Raises StackError when it never worked."""
        assert running.process is not None, "a part that fell had a process"
        running.last_exit = running.process.returncode
        steady = running.state is PartState.READY and now - running.ready > STEADY_SECONDS
        running.failures = 1 if steady else running.failures + 1
        running.cause = running.cause or f"it ended with code {running.last_exit}"
        if not running.was_ready and running.failures >= FAILED_STARTS:
            log = self.log_of(running.part.name)
            raise StackError(
                f"the {running.part.name} did not start: {running.cause}. The end of {log}:\n{processes.tail_of(log)}"
            )
        running.restarts += 1
        running.start_after = now + choose_delay_seconds(running.failures)
        self._set(running, PartState.RESTARTING)

    def _end(self, running: Running) -> None:
        if running.process is not None:
            extra = 5.0 if running.part.tree else 0.0
            grace = 0.0 if self._hurry.is_set() else running.part.stop_seconds + extra
            processes.end(running.process, grace_seconds=grace)

    def _set(self, running: Running, state: PartState) -> None:
        if running.state is not state:
            running.state = state
            self.changed()


def choose_delay_seconds(failures: int) -> float:
    """How long to wait before a part is started again after so many failures in a row."""
    return float(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** max(0, failures - 1)))
