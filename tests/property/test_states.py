"""The tables of states: every walk over them ends, and every decision about an attempt's end is a legal move."""

from collections.abc import Mapping
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import outcomes
from orchestrator.domain.failures import FAILURE_RULES, Blame, Failure, FailureKind
from orchestrator.domain.outcomes import AttemptEnd, JobFacts, decide_job_move
from orchestrator.domain.retry import MAX_PLATFORM_FAILURES
from orchestrator.domain.states import (
    ACTIVE_ATTEMPT_STATES,
    ATTEMPT_MOVES,
    FINAL_ATTEMPT_STATES,
    FINAL_JOB_STATES,
    JOB_MOVES,
    AttemptState,
    JobState,
    states_before_attempt,
    states_before_job,
)

Moves = Mapping[StrEnum, frozenset[StrEnum]]
MACHINES = [
    pytest.param(JOB_MOVES, JobState.VALIDATING_FILES, FINAL_JOB_STATES, id="job"),
    pytest.param(ATTEMPT_MOVES, AttemptState.ASSIGNED, FINAL_ATTEMPT_STATES, id="attempt"),
]
HOLDING = (JobState.RUNNING, JobState.PAUSING)
"""Job states in which an attempt is active."""


def reachable(moves: Moves, start: StrEnum) -> set[StrEnum]:
    seen, waiting = {start}, [start]
    while waiting:
        for state in moves[waiting.pop()] - seen:
            seen.add(state)
            waiting.append(state)
    return seen


@pytest.mark.parametrize(("moves", "start", "final"), MACHINES)
def test_tables_are_whole(moves: Moves, start: StrEnum, final: frozenset[StrEnum]) -> None:
    assert set(moves) == set(type(start))
    assert reachable(moves, start) == set(moves), "some state can never be entered"
    assert {state for state in moves if not moves[state]} == final
    for state in moves:
        assert state not in moves[state], "a move to itself is not a move"
        assert reachable(moves, state) & final, f"{state} can never end"


def test_sizes_of_the_tables() -> None:
    assert (len(JobState), len(FINAL_JOB_STATES)) == (8, 3)
    assert (len(AttemptState), len(FINAL_ATTEMPT_STATES), len(ACTIVE_ATTEMPT_STATES)) == (9, 5, 4)


def test_looking_back_agrees_with_looking_forward() -> None:
    assert {(s, t) for t in JobState for s in states_before_job(t)} == {(s, t) for s in JobState for t in JOB_MOVES[s]}
    assert {(s, t) for t in AttemptState for s in states_before_attempt(t)} == {
        (s, t) for s in AttemptState for t in ATTEMPT_MOVES[s]
    }


@pytest.mark.parametrize(("moves", "start", "final"), MACHINES)
@given(data=st.data())
def test_walks_stop_at_final_states_only(
    moves: Moves, start: StrEnum, final: frozenset[StrEnum], data: st.DataObject
) -> None:
    walk = [start]
    for _ in range(40):
        following = sorted(moves[walk[-1]])
        if not following:
            break
        walk.append(data.draw(st.sampled_from(following)))
    assert not any(state in final for state in walk[:-1])
    assert walk[-1] in final or len(walk) == 41


@given(data=st.data())
def test_attempt_goes_forward_only(data: st.DataObject) -> None:
    """No walk enters a state twice, so every attempt ends within five moves."""
    walk = [AttemptState.ASSIGNED]
    while ATTEMPT_MOVES[walk[-1]]:
        walk.append(data.draw(st.sampled_from(sorted(ATTEMPT_MOVES[walk[-1]]))))
        assert len(walk) <= 5
    assert len(set(walk)) == len(walk)


failures = st.builds(Failure, kind=st.sampled_from(FailureKind), message=st.just("It broke."))
ends = st.one_of(
    st.builds(outcomes.succeeded),
    st.builds(outcomes.cancelled),
    st.builds(outcomes.lost, st.just("Gone.")),
    st.builds(outcomes.failed, st.sampled_from(FailureKind), st.just("It broke.")),
    st.builds(outcomes.interrupted, st.none() | failures),
)
facts = st.builds(
    JobFacts,
    state=st.sampled_from(HOLDING),
    cancel_requested=st.booleans(),
    pause_requested=st.booleans(),
    platform_failures=st.integers(0, MAX_PLATFORM_FAILURES - 1),
).filter(lambda job: job.pause_requested or job.state is not JobState.PAUSING)


@given(end=ends, job=facts)
def test_decision_is_a_legal_move_and_keeps_its_promises(end: AttemptEnd, job: JobFacts) -> None:
    move = decide_job_move(end, job)
    assert move.state in JOB_MOVES[job.state]
    if end.state is AttemptState.SUCCEEDED:
        assert move.state is JobState.SUCCEEDED
    elif job.cancel_requested:
        assert move.state is JobState.CANCELLED
    if move.state is JobState.QUEUED:
        assert not job.pause_requested
    assert (move.failure is not None) == (move.state is JobState.FAILED)
    if move.counts_as_platform_failure:
        assert end.failure is not None
        assert end.failure.rule.blame is Blame.PLATFORM
    assert move.delay_seconds == 0 or move.state in (JobState.QUEUED, JobState.PAUSED)


@given(kinds=st.lists(st.sampled_from(FailureKind), min_size=1, max_size=20))
def test_job_never_fails_for_the_platform_more_often_than_allowed(kinds: list[FailureKind]) -> None:
    failed_before, state = 0, JobState.RUNNING
    attempts = 0
    for kind in kinds:
        attempts += 1
        job = JobFacts(
            state=JobState.RUNNING, cancel_requested=False, pause_requested=False, platform_failures=failed_before
        )
        move = decide_job_move(outcomes.failed(kind, "It broke."), job)
        failed_before += move.counts_as_platform_failure
        state = move.state
        if state in FINAL_JOB_STATES:
            break
    assert attempts <= MAX_PLATFORM_FAILURES
    assert failed_before <= MAX_PLATFORM_FAILURES
    first_final = next((n for n, kind in enumerate(kinds, start=1) if not FAILURE_RULES[kind].retryable), None)
    if first_final is not None and first_final <= attempts:
        assert state in FINAL_JOB_STATES
