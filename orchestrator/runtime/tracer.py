"""The warm tracer: one process that is kept, asked by any number of threads, and replaced when it fails.

Invariants: only the keeper's thread touches the process; nobody waits longer than they said, and nothing is begun that
nobody waits for; an answer is remembered under its question, so it is asked once; a question that ended a process is
not asked again for a while, and a process that ended is not started again at once. Without a process there is a reason,
never a guess.
"""

import json
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import structlog

from orchestrator.domain.errors import UntraceableError
from orchestrator.runtime.tracer_process import TracerProcess, default_command

CACHED_ANSWERS = 4096
"""About 2 KiB each, most of it the question."""
MAX_WAITING = 256
"""Questions in the queue; more are refused at once."""
FORGIVEN_AFTER_SECONDS = 60.0
"""How long a question that ended a process is answered from memory."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Before a process is started again: doubled with each failure, forgotten with an answer."""
CLOSE_SECONDS = 15.0

log = structlog.get_logger(__name__)

Question = Mapping[str, Any]


@dataclass(frozen=True)
class NoAnswer:
    reason: str


Found = dict[str, Any] | NoAnswer
"""The tracer's line, which may hold its own `error`; or why there is none."""


@dataclass(frozen=True, kw_only=True)
class TracerLimits:
    """`start_seconds` is for the first answer of a process, which loads its libraries; `answer_seconds` for others."""

    start_seconds: float = 30.0
    answer_seconds: float = 5.0
    memory_bytes: int = 2 * 2**30


@dataclass(frozen=True)
class _Asked:
    key: str
    question: Question
    answer: "Future[Found]"


class Tracer:
    """No process and no thread is started before the first question."""

    def __init__(
        self,
        command: Sequence[str] = (),
        *,
        limits: TracerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers = _Answers(clock)
        self._keeper = _Keeper(command or default_command(), limits or TracerLimits(), self._answers, clock)

    def find(self, question: Question) -> Found | None:
        """What is remembered; None when it was never asked. Never waits."""
        return self._answers.find(_key(question))

    def ask(self, questions: Sequence[Question], *, wait_seconds: float) -> list[Found]:
        """An answer or a reason for each, within `wait_seconds` for all.

        A question that is under way by then is answered later, and remembered; others are taken back.
        """
        deadline = time.monotonic() + wait_seconds
        keys = [_key(question) for question in questions]
        asked = [
            self._answers.find(key) or self._keeper.take(key, question)
            for key, question in zip(keys, questions, strict=True)
        ]
        return [_wait(one, deadline) if isinstance(one, Future) else one for one in asked]

    def close(self) -> None:
        """End the process; questions under way are answered with a reason. Nothing is asked afterwards."""
        self._keeper.close()


def _key(question: Question) -> str:
    return json.dumps(question, sort_keys=True, separators=(",", ":"))


def _wait(answer: "Future[Found]", deadline: float) -> Found:
    try:
        return answer.result(max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        answer.cancel()
        return NoAnswer("the tracer is busy or still starting; ask again in some seconds")


class _Answers:
    """The least recently used goes first. Failures are forgotten after a while, answers are not."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Found, float | None]] = OrderedDict()

    def find(self, key: str) -> Found | None:
        with self._lock:
            found, until = self._kept.get(key, (None, None))
            if found is None or (until is not None and until <= self._clock()):
                return None
            self._kept.move_to_end(key)
            return found

    def keep(self, key: str, found: Found) -> None:
        until = self._clock() + FORGIVEN_AFTER_SECONDS if isinstance(found, NoAnswer) else None
        with self._lock:
            self._kept[key] = (found, until)
            self._kept.move_to_end(key)
            while len(self._kept) > CACHED_ANSWERS:
                self._kept.popitem(last=False)


class _Keeper:
    """Starts the process in its thread, asks it one question after the other, and ends it."""

    def __init__(
        self, command: Sequence[str], limits: TracerLimits, answers: _Answers, clock: Callable[[], float]
    ) -> None:
        self._command, self._limits, self._answers, self._clock = command, limits, answers, clock
        self._queue: queue.Queue[_Asked | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._process: TracerProcess | None = None
        self._failures, self._paused_until, self._why = 0, 0.0, ""

    def take(self, key: str, question: Question) -> "Future[Found]":
        asked = _Asked(key, question, Future())
        with self._lock:
            if self._closing.is_set():
                asked.answer.set_result(NoAnswer("the control plane is stopping"))
            elif self._queue.qsize() >= MAX_WAITING:
                asked.answer.set_result(NoAnswer("too many questions wait for the tracer"))
            else:
                self._queue.put(asked)
                self._start_thread()
        return asked.answer

    def close(self) -> None:
        with self._lock:
            self._closing.set()
            self._queue.put(None)
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            if not asked.answer.set_running_or_notify_cancel():
                continue
            try:
                found: Found = self._answers.find(asked.key) or self._answer(asked)
            except Exception as error:  # a caller waits for it, and the next one needs this thread
                log.exception("the tracer could not be asked")
                found = NoAnswer(f"the tracer could not be asked: {type(error).__name__}")
                self._end()
            asked.answer.set_result(found)
        self._end()

    def _answer(self, asked: _Asked) -> Found:
        left = self._paused_until - self._clock()
        if left > 0 or self._closing.is_set():
            return NoAnswer(f"{self._why or 'the control plane is stopping'} (tried again in {max(0, left):.0f} s)")
        try:
            process = self._process = self._process or TracerProcess(
                self._command, memory_bytes=self._limits.memory_bytes
            )
            seconds = self._limits.answer_seconds if process.is_warm else self._limits.start_seconds
            found: Found = process.ask(asked.question, seconds=seconds, is_wanted=lambda: not self._closing.is_set())
        except (UntraceableError, OSError) as error:
            found = self._note_failure(error)
        else:
            self._failures = 0
            if process.is_worn:
                self._end()
        self._answers.keep(asked.key, found)
        return found

    def _note_failure(self, error: UntraceableError | OSError) -> NoAnswer:
        self._end()
        self._failures += 1
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 16))
        self._paused_until = self._clock() + pause
        self._why = error.message if isinstance(error, UntraceableError) else f"the tracer cannot be started: {error}"
        if not self._closing.is_set():
            log.warning("no traced estimates", error=self._why, failures=self._failures, pause_seconds=pause)
        return NoAnswer(self._why)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()
