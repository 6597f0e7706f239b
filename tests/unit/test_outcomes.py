"""What becomes of a job when its attempt ends: every end, with and without wishes to cancel and to pause."""

import pytest

from orchestrator.domain import outcomes
from orchestrator.domain.failures import Failure, FailureKind
from orchestrator.domain.outcomes import AttemptEnd, JobFacts, JobMove, decide_job_move
from orchestrator.domain.remedies import Remedy
from orchestrator.domain.retry import MAX_PLATFORM_FAILURES
from orchestrator.domain.states import AttemptState, JobState
from tests.support.plans import make_plan

BUDGET = Failure(kind=FailureKind.BUDGET, message="The job reached max_cost_usd.")
ENDS = [
    outcomes.cancelled(),
    outcomes.interrupted(),
    outcomes.interrupted(BUDGET),
    outcomes.lost("No answer."),
    outcomes.failed(FailureKind.OUT_OF_MEMORY, "Too large."),
    outcomes.failed(FailureKind.PLATFORM, "Broken."),
]


def decide(
    end: AttemptEnd, *, cancel: bool = False, pause: bool = False, failures: int = 0, remedy: Remedy | None = None
) -> JobMove:
    facts = JobFacts(
        state=JobState.PAUSING if pause else JobState.RUNNING,
        cancel_requested=cancel,
        pause_requested=pause,
        platform_failures=failures,
        remedy=remedy,
    )
    return decide_job_move(end, facts)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("pause", [False, True])
def test_a_wish_to_cancel_wins_over_every_end_but_success(end: AttemptEnd, *, pause: bool) -> None:
    assert decide(end, cancel=True, pause=pause) == JobMove(state=JobState.CANCELLED)


@pytest.mark.parametrize("pause", [False, True])
def test_a_success_that_was_published_stays_one(*, pause: bool) -> None:
    assert decide(outcomes.succeeded(), pause=pause) == JobMove(state=JobState.SUCCEEDED)


def test_an_interruption_without_a_reason_pauses_or_queues_again_at_once() -> None:
    assert decide(outcomes.interrupted(), pause=True) == JobMove(state=JobState.PAUSED)
    assert decide(outcomes.interrupted()) == JobMove(state=JobState.QUEUED)


@pytest.mark.parametrize("pause", [False, True])
def test_a_limit_ends_the_job(*, pause: bool) -> None:
    move = decide(outcomes.interrupted(BUDGET), pause=pause)
    assert (move.state, move.failure, move.counts_as_platform_failure) == (JobState.FAILED, BUDGET, False)


@pytest.mark.parametrize("kind", [FailureKind.BAD_DATA, FailureKind.DIVERGED, FailureKind.OUT_OF_MEMORY])
def test_what_would_fail_again_ends_the_job_at_once(kind: FailureKind) -> None:
    move = decide(outcomes.failed(kind, "Wrong."))
    assert move == JobMove(state=JobState.FAILED, failure=Failure(kind=kind, message="Wrong."))


@pytest.mark.parametrize("pause", [False, True])
def test_out_of_memory_is_followed_by_its_remedy_at_once(*, pause: bool) -> None:
    """Without a remedy it ends the job: see above."""
    remedy = Remedy(kind="memory", plan=make_plan(), footprints={"cpu": 1}, sentence="More.", settings={})
    end = outcomes.failed(FailureKind.OUT_OF_MEMORY, "Too large.")
    state = JobState.PAUSED if pause else JobState.QUEUED
    assert decide(end, pause=pause, remedy=remedy) == JobMove(state=state, remedy=remedy)
    assert decide(end, cancel=True, pause=pause, remedy=remedy) == JobMove(state=JobState.CANCELLED)
    assert decide(outcomes.lost("No answer."), remedy=remedy).remedy is None


def test_a_lost_attempt_is_followed_by_another_later_and_later() -> None:
    moves = [decide(outcomes.lost("No answer."), failures=before) for before in range(MAX_PLATFORM_FAILURES)]
    assert [move.state for move in moves] == [JobState.QUEUED] * (MAX_PLATFORM_FAILURES - 1) + [JobState.FAILED]
    assert [move.delay_seconds for move in moves] == [2, 4, 8, 16, 0]
    assert all(move.counts_as_platform_failure for move in moves)
    assert moves[-1].failure == Failure(kind=FailureKind.LOST, message="No answer.")


def test_a_lost_attempt_of_a_job_that_is_pausing_leaves_it_paused() -> None:
    move = decide(outcomes.lost("No answer."), pause=True)
    assert (move.state, move.failure) == (JobState.PAUSED, None)


def test_a_failure_must_say_why() -> None:
    with pytest.raises(AssertionError, match="says why"):
        decide(AttemptEnd(state=AttemptState.FAILED))
