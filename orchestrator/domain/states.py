"""The life of a job and of an attempt, as data.

These two tables are the only definition of what may follow what. `orchestrator.store` applies them in one guarded
write; nothing else assigns a state. Final states are those with no move out.

Job                                  who moves it on
  validating_files  tokens counted, rows checked against the model       validate loop
  queued            waits for devices                                    place loop
  running           an attempt holds devices                             watch and publish loops
  pausing           a user asked for pause; the attempt saves            watch loop
  paused            holds nothing, bills nothing, until a user resumes   services
  succeeded         the adapter is published                             final
  failed            the error says why and whose fault                   final
  cancelled         a user asked; nothing runs any more                  final

Attempt
  assigned          devices and a lease are held, Ray not yet asked      launch loop
  launching         Ray was asked; no report has come yet                watch loop
  running           reports come                                         watch loop
  verifying         training ended; the adapter is being checked         publish loop
  succeeded, failed, cancelled, interrupted (paused, budget, deadline), lost (contact)   final
"""

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    ASSIGNED = "assigned"
    LAUNCHING = "launching"
    RUNNING = "running"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"


_J, _A = JobState, AttemptState

JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    _J.VALIDATING_FILES: frozenset({_J.QUEUED, _J.FAILED, _J.CANCELLED, _J.PAUSED}),
    _J.QUEUED: frozenset({_J.RUNNING, _J.PAUSED, _J.VALIDATING_FILES, _J.FAILED, _J.CANCELLED}),
    _J.RUNNING: frozenset({_J.QUEUED, _J.PAUSING, _J.PAUSED, _J.SUCCEEDED, _J.FAILED, _J.CANCELLED}),
    _J.PAUSING: frozenset({_J.PAUSED, _J.SUCCEEDED, _J.FAILED, _J.CANCELLED}),
    _J.PAUSED: frozenset({_J.QUEUED, _J.VALIDATING_FILES, _J.CANCELLED}),
    _J.SUCCEEDED: frozenset(),
    _J.FAILED: frozenset(),
    _J.CANCELLED: frozenset(),
}

ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = {
    _A.ASSIGNED: frozenset({_A.LAUNCHING, _A.CANCELLED, _A.INTERRUPTED, _A.LOST}),
    _A.LAUNCHING: frozenset({_A.RUNNING, _A.FAILED, _A.CANCELLED, _A.INTERRUPTED, _A.LOST}),
    _A.RUNNING: frozenset({_A.VERIFYING, _A.FAILED, _A.CANCELLED, _A.INTERRUPTED, _A.LOST}),
    _A.VERIFYING: frozenset({_A.SUCCEEDED, _A.FAILED, _A.CANCELLED, _A.LOST}),
    _A.SUCCEEDED: frozenset(),
    _A.FAILED: frozenset(),
    _A.CANCELLED: frozenset(),
    _A.INTERRUPTED: frozenset(),
    _A.LOST: frozenset(),
}

FINAL_JOB_STATES: frozenset[JobState] = frozenset(s for s, moves in JOB_MOVES.items() if not moves)
FINAL_ATTEMPT_STATES: frozenset[AttemptState] = frozenset(s for s, moves in ATTEMPT_MOVES.items() if not moves)
ACTIVE_ATTEMPT_STATES: frozenset[AttemptState] = frozenset(AttemptState) - FINAL_ATTEMPT_STATES

IDLE_JOB_STATES: frozenset[JobState] = frozenset({_J.VALIDATING_FILES, _J.QUEUED, _J.PAUSED})
"""A job in one of these has no active attempt, so that it can be moved, and started, at once."""


def states_before_job(target: JobState) -> frozenset[JobState]:
    """Every job state from which `target` may be entered."""
    return frozenset(s for s, moves in JOB_MOVES.items() if target in moves)


def states_before_attempt(target: AttemptState) -> frozenset[AttemptState]:
    """Every attempt state from which `target` may be entered."""
    return frozenset(s for s, moves in ATTEMPT_MOVES.items() if target in moves)
