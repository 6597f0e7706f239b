"""How an attempt spends its time, from its own reports: seconds in each phase, steps and how long they take. Pure.

All moments are the worker's clock, so only differences of them are used. The record is the same however the journal is
cut into batches, and is stored with the attempt in the transaction that moves its cursor.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import OUTCOME_KINDS, Entry, Metric, Phase, Progress

RECENT_STEPS = 31
"""Steps that make the present speed: enough to pass over a checkpoint, few enough to follow a new neighbour."""
TRIMMED_SHARE = 0.1
"""Of the recent steps at either end that are left out. Not all but one, as a median does: steps of long rows are few
and long, and the rest of the run has its share of them."""
REPEATED_TERMS = ("training", "evaluating")
"""Of a time estimate: what an attempt that goes on from a checkpoint does only a part of."""
LONGEST_SECONDS = 1e7
"""Clocks that are set while a job runs may jump; no phase of a training lasts four months."""


class Pace(BaseModel):
    """`seconds` and `entered` are by phase, of phases that are over; `phase` has been on since `since_unix`.

    `recent_seconds` are the newest steps' own, newest last, and `seen_tokens` all tokens but padding. `trained_from`
    and `trained_to` are the job's trained tokens at the first and the newest report of progress.
    """

    model_config = ConfigDict(frozen=True)

    phase: str | None = None
    since_unix: float = 0.0
    first_unix: float | None = None
    last_unix: float = 0.0
    seconds: dict[str, float] = {}
    entered: dict[str, int] = {}
    steps: int = 0
    step_at_unix: float | None = None
    recent_seconds: tuple[float, ...] = ()
    seen_tokens: float = 0.0
    trained_from: int | None = None
    trained_to: int | None = None

    @property
    def trained_tokens(self) -> int:
        """Of this attempt alone."""
        return max(0, (self.trained_to or 0) - (self.trained_from or 0))

    def phase_seconds(self) -> dict[str, float]:
        """Seconds by phase, with the open one up to the newest entry."""
        return self._leave(self.last_unix)

    def _leave(self, at_unix: float) -> dict[str, float]:
        if self.phase is None:
            return dict(self.seconds)
        spent = _between(self.since_unix, at_unix)
        return {**self.seconds, self.phase: self.seconds.get(self.phase, 0.0) + spent}


def advance_pace(pace: Pace, entries: Iterable[Entry]) -> Pace:
    """The record after these entries, which are in the journal's order; other reports only move the clock."""
    for entry in entries:
        report, at_unix = entry.report, entry.at_unix
        changes: dict[str, object] = {"last_unix": at_unix}
        if pace.first_unix is None:
            changes["first_unix"] = at_unix
        match report:
            case Phase():
                changes |= _enter(pace, report.phase, at_unix)
            case Metric() if "train_loss" in report.values:
                changes |= _step(pace, report, at_unix)
            case Progress():
                changes["trained_to"] = report.trained_tokens
                if pace.trained_from is None:
                    changes["trained_from"] = report.trained_tokens if report.step == 0 or not pace.steps else 0
            case _ if report.kind in OUTCOME_KINDS:
                changes |= {"seconds": pace._leave(at_unix), "phase": None, "step_at_unix": None}
        pace = pace.model_copy(update=changes)
    return pace


def _enter(pace: Pace, phase: str, at_unix: float) -> dict[str, object]:
    entered = {**pace.entered, phase: pace.entered.get(phase, 0) + 1}
    return {
        "seconds": pace._leave(at_unix),
        "entered": entered,
        "phase": phase,
        "since_unix": at_unix,
        "step_at_unix": None,
    }


def _step(pace: Pace, metric: Metric, at_unix: float) -> dict[str, object]:
    """From one step's report to the next, so that what lies between steps counts; a phase's first has its own time."""
    own = metric.values.get("step_seconds")
    seconds = own if pace.step_at_unix is None else _between(pace.step_at_unix, at_unix)
    recent = pace.recent_seconds if seconds is None else (*pace.recent_seconds, seconds)[-RECENT_STEPS:]
    seen = (own or 0.0) * metric.values.get("tokens_per_second", 0.0)
    return {
        "steps": pace.steps + 1,
        "step_at_unix": at_unix,
        "recent_seconds": recent,
        "seen_tokens": pace.seen_tokens + seen,
    }


def _between(earlier_unix: float, later_unix: float) -> float:
    return min(max(0.0, later_unix - earlier_unix), LONGEST_SECONDS)


def count_evaluations(plan: TrainingPlan, *, after_step: int, last_step: int) -> int:
    """Passes over the validation file in the steps behind `after_step`, when there is such a file.

    One is after each `eval_steps` and one after the last step; the one before the first step is not in here.
    """
    if after_step >= last_step:
        return 0
    every = plan.eval_steps
    if every is None:
        return 1
    return last_step // every - after_step // every + (1 if last_step % every else 0)


def estimate_finish(
    pace: Pace,
    plan: TrainingPlan,
    *,
    step: int,
    total_steps: int,
    evaluates: bool,
    seen_at: datetime,
    end_seconds: float,
) -> datetime | None:
    """When a running attempt will be through, from its own speed; None before its first step.

    `seen_at` is its last sign of life and `end_seconds` what saving and uploading are predicted to take.
    """
    if not pace.recent_seconds:
        return None
    left = max(0, total_steps - step) * average_steps(pace.recent_seconds)
    if evaluates:
        passes = count_evaluations(plan, after_step=step, last_step=total_steps)
        left += _evaluation_seconds(pace, passes)
    spent_ending = sum(pace.phase_seconds().get(phase, 0.0) for phase in ("saving", "uploading"))
    return seen_at + timedelta(seconds=left + max(0.0, end_seconds - spent_ending))


def average_steps(seconds: Sequence[float]) -> float:
    """The mean of at least one step's time, without the shortest and the longest."""
    cut = math.ceil(TRIMMED_SHARE * len(seconds)) if len(seconds) > 2 else 0
    return fmean(sorted(seconds)[cut : len(seconds) - cut])


def predict_finish(
    predicted: Mapping[str, float], *, share_left: float, began_at: datetime, seen_at: datetime
) -> datetime | None:
    """Before the first step of an attempt, by the estimate's terms; None without any. `share_left` is of the steps."""
    if not predicted:
        return None
    repeated = sum(predicted.get(term, 0.0) for term in REPEATED_TERMS)
    seconds = sum(predicted.values()) - (1 - share_left) * repeated
    return max(seen_at, began_at + timedelta(seconds=seconds))


def _evaluation_seconds(pace: Pace, passes: int) -> float:
    """Of so many further passes, and of what is left of one that is under way. Each lasts as the ones so far did; while
    the first is under way, as long as it has lasted already."""
    over, spent = pace.entered.get("evaluating", 0), pace.seconds.get("evaluating", 0.0)
    if pace.phase != "evaluating":
        return passes * spent / over if over else 0.0
    running = _between(pace.since_unix, pace.last_unix)
    each = spent / (over - 1) if over > 1 else running
    return passes * each + max(0.0, each - running)
