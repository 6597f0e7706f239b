"""Traced estimates where they can be had, and the closed form, with the reason, where they cannot."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.domain.errors import UntraceableError
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate, estimate_memory
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.trace import build_question, read_answer
from orchestrator.runtime.tracer import Found, NoAnswer, Tracer

_Ask = Callable[[Sequence[dict[str, Any]]], Sequence[Found]]


@dataclass(frozen=True)
class TracedSizer:
    """`wait_seconds` is how long `measure` waits for all the plans of a call together; in a session, of all calls.

    `deadline` is the session's end on the monotonic clock. Whoever waits holds one of `seats`, and who finds none free
    is answered at once: a tracer that starts or hangs must not take every thread of a server.
    """

    tracer: Tracer
    wait_seconds: float
    deadline: float | None = None
    seats: threading.Semaphore = field(default_factory=threading.Semaphore)

    def session(self) -> "TracedSizer":
        return replace(self, deadline=time.monotonic() + self.wait_seconds)

    def measure(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> Sequence[MemoryEstimate]:
        return _size(model, plans, kind, self._ask)

    def glance(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> Sequence[MemoryEstimate]:
        return _size(model, plans, kind, self._remember)

    def _ask(self, questions: Sequence[dict[str, Any]]) -> Sequence[Found]:
        known = [found for question in questions if (found := self.tracer.find(question)) is not None]
        if len(known) == len(questions):
            return known
        left = self.wait_seconds if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0:
            late = f"the tracer did not answer everything within {self.wait_seconds:g} s; ask again"
            return self._remember(questions, otherwise=late)
        if not self.seats.acquire(blocking=False):
            return self._remember(questions, otherwise="others wait for the tracer already; ask again in some seconds")
        try:
            return self.tracer.ask(questions, wait_seconds=left)
        finally:
            self.seats.release()

    def _remember(self, questions: Sequence[dict[str, Any]], *, otherwise: str = "not traced yet") -> Sequence[Found]:
        return [self.tracer.find(question) or NoAnswer(otherwise) for question in questions]


def _size(model: BaseModel, plans: Sequence[TrainingPlan], kind: DeviceKind, ask: _Ask) -> Sequence[MemoryEstimate]:
    try:
        questions = [build_question(plan, model.config, kind) for plan in plans]
    except UntraceableError as error:
        return [_fall_back(plan, model, kind, error.message) for plan in plans]
    return [_read(found, plan, model, kind) for found, plan in zip(ask(questions), plans, strict=True)]


def _read(found: Found, plan: TrainingPlan, model: BaseModel, kind: DeviceKind) -> MemoryEstimate:
    if isinstance(found, NoAnswer):
        return _fall_back(plan, model, kind, found.reason)
    try:
        return read_answer(found, kind)
    except UntraceableError as error:
        return _fall_back(plan, model, kind, error.message)


def _fall_back(plan: TrainingPlan, model: BaseModel, kind: DeviceKind, reason: str) -> MemoryEstimate:
    return replace(estimate_memory(plan, model.facts, kind), reason=reason)
