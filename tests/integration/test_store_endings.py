"""What the end of an attempt does, on both engines: the job's move, its one event, and the bill, all at once."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.domain import outcomes
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import ConflictError, LeaseLostError
from orchestrator.domain.failures import FAILURE_RULES, Blame, Failure, FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.pricing import Rate
from orchestrator.domain.retry import MAX_PLATFORM_FAILURES
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.store import adapters, attempts, checkpoints, events, jobs, ledger
from orchestrator.store.session import Store, WriteTx
from tests.support import rows
from tests.support.queues import order_queue
from tests.support.threads import run_overlapping, run_together

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
RETRYABLE = [kind for kind in FailureKind if FAILURE_RULES[kind].retryable]
FINAL = [kind for kind in FailureKind if FAILURE_RULES[kind].blame is Blame.USER]


def finish(tx: WriteTx, attempt: Attempt, how: AttemptEnd, *, after: timedelta = HOUR, **changes: object) -> Job:
    """End the attempt `after` its launch and return its job."""
    assert attempt.started_at is not None
    ended_at = attempt.started_at + after
    attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, how, ended_at=ended_at, changes=changes or None)
    return jobs.get_job(tx, attempt.job_id)


def last_event(tx: WriteTx, job: Job) -> tuple[str, str]:
    (event,) = events.list_events(tx, job.job_id, limit=1).items
    return event.message, event.level


def running(tx: WriteTx, **options: object) -> Attempt:
    return rows.add_running_attempt(tx, **options)  # type: ignore[arg-type]


def succeed(tx: WriteTx, attempt: Attempt) -> Job:
    attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, AttemptState.VERIFYING)
    adapters.insert_adapter(tx, rows.make_adapter(attempt, created_at=tx.now(), name=f"ft:{attempt.attempt_id}"))
    changes = {"fine_tuned_model": f"ft:{attempt.attempt_id}", "result_files": ("file-1",), "trained_tokens": 77}
    return finish(tx, attempt, outcomes.succeeded(), **changes)


def test_success_publishes_and_bills_the_whole_time(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)
        job = succeed(tx, attempt)
        ended = attempts.get_attempt(tx, attempt.attempt_id)
        (entry,) = ledger.list_entries(tx, job_id=job.job_id)
        assert last_event(tx, job) == ("The job has succeeded: its adapter is published.", "info")
        assert adapters.find_adapter_of_job(tx, job.job_id) is not None
    assert (job.state, job.trained_tokens, job.result_files) == (JobState.SUCCEEDED, 77, ("file-1",))
    assert (ended.state, ended.ended_at, ended.phase) == (AttemptState.SUCCEEDED, attempt.started_at + HOUR, None)
    assert (entry.started_at, entry.ended_at) == (attempt.started_at, ended.ended_at)
    assert (entry.amount_usd_micros, entry.billed) == (600_000, True), "an hour of a quarter of a 2.40 device"
    assert entry.rate == attempt.rate


def test_crash_while_publishing_leaves_nothing_half_done(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)

    def publish() -> None:
        with store.write() as tx:
            succeed(tx, attempt)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish()
    with store.read() as tx:
        assert attempts.get_attempt(tx, attempt.attempt_id) == attempt
        assert adapters.find_adapter_of_job(tx, attempt.job_id) is None
        assert ledger.list_entries(tx) == []


def test_job_has_one_adapter(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)
        succeed(tx, attempt)

    def publish_again() -> None:
        with store.write() as tx:
            adapters.insert_adapter(tx, rows.make_adapter(attempt, created_at=tx.now()))

    with pytest.raises(ConflictError):
        publish_again()


@pytest.mark.parametrize("kind", RETRYABLE)
def test_platform_failure_is_tried_again_and_only_kept_work_is_billed(store: Store, kind: FailureKind) -> None:
    with store.write() as tx:
        attempt = running(tx)
        for minutes in (10, 15):
            at = attempt.started_at + timedelta(minutes=minutes)
            checkpoints.insert_checkpoint(tx, rows.make_checkpoint(attempt, step=minutes, created_at=at))
        job = finish(tx, attempt, outcomes.failed(kind, "It broke."))
        kept, lost = ledger.list_entries(tx, job_id=job.job_id)
        sums = ledger.sum_for_job(tx, job.job_id)
        message, level = last_event(tx, job)
        assert job.not_before_at == tx.now() + timedelta(seconds=2)
        assert order_queue(tx, tx.now()) == []
        assert order_queue(tx, tx.now() + 2 * SECOND) == [job.job_id]
    assert (job.state, job.platform_failures, job.error) == (JobState.QUEUED, 1, None)
    assert (kept.ended_at, lost.started_at) == (attempt.started_at + timedelta(minutes=15),) * 2
    assert (kept.billed, lost.billed, sums) == (True, False, (150_000, 450_000))
    assert (message, level) == ("Attempt 1 ended: It broke. The job is queued again and goes on in 2 s.", "warn")


@pytest.mark.parametrize("kind", FINAL)
def test_failure_of_the_users_making_ends_the_job_and_is_billed(store: Store, kind: FailureKind) -> None:
    with store.write() as tx:
        job = finish(tx, running(tx), outcomes.failed(kind, "Row 3 is empty."))
        assert ledger.sum_for_job(tx, job.job_id) == (600_000, 0)
        assert last_event(tx, job) == ("The job has failed: Row 3 is empty.", "error")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == kind.value
    assert job.error.message == f"Row 3 is empty. {FAILURE_RULES[kind].hint}"


def test_platform_failures_are_bounded(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_queued_job(tx)
        for number in range(1, MAX_PLATFORM_FAILURES + 1):
            assert job.state is JobState.QUEUED
            job = finish(tx, running(tx, job=job), outcomes.lost("No contact."))
            assert job.platform_failures == number
        assert job.state is JobState.FAILED
        assert [attempt.number for attempt in attempts.list_attempts(tx, job.job_id)] == [1, 2, 3, 4, 5]
        assert ledger.sum_for_job(tx, job.job_id) == (0, MAX_PLATFORM_FAILURES * 600_000)
        assert attempts.count_by_state(tx) == {(AttemptState.LOST, FailureKind.LOST): MAX_PLATFORM_FAILURES}


@pytest.mark.parametrize(
    "how",
    [outcomes.cancelled(), outcomes.interrupted(), outcomes.lost("Gone."), outcomes.failed(FailureKind.BAD_DATA, "x")],
    ids=lambda how: how.state.value,
)
def test_cancel_beats_retry_pause_and_failure(store: Store, how: AttemptEnd) -> None:
    with store.write() as tx:
        attempt = running(tx)
        jobs.request_pause(tx, attempt.job_id)
        jobs.apply_job_transition(tx, attempt.job_id, JobState.PAUSING, message="Pausing.")
        jobs.request_cancel(tx, attempt.job_id)
        job = finish(tx, attempt, how)
        assert last_event(tx, job) == ("The job is cancelled.", "info")
    assert (job.state, job.error) == (JobState.CANCELLED, None)


def test_published_success_beats_a_late_cancel(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)
        jobs.request_cancel(tx, attempt.job_id)
        assert succeed(tx, attempt).state is JobState.SUCCEEDED


def test_cancel_that_is_just_being_written_down_beats_the_retry(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)
    _, job = run_overlapping(
        store,
        lambda tx: jobs.request_cancel(tx, attempt.job_id),
        lambda tx: finish(tx, attempt, outcomes.lost("Gone.")),
    )
    assert isinstance(job, Job)
    assert job.state is JobState.CANCELLED


def test_cancel_and_end_at_once_agree(store: Store) -> None:
    """A cancel that was accepted is never followed by a retry, whoever comes first."""
    for _ in range(10):
        with store.write() as tx:
            attempt = running(tx)

        def cancel(attempt: Attempt = attempt) -> JobState:
            with store.write() as tx:
                job = jobs.request_cancel(tx, attempt.job_id)
                if job.state is JobState.QUEUED:
                    job = jobs.apply_job_transition(tx, job.job_id, JobState.CANCELLED, message="Cancelled.")
                return job.state

        def lose(attempt: Attempt = attempt) -> None:
            with store.write() as tx:
                finish(tx, attempt, outcomes.lost("Gone."))

        assert not any(isinstance(result, BaseException) for result in run_together([cancel, lose]))
        with store.read() as tx:
            assert jobs.get_job(tx, attempt.job_id).state is JobState.CANCELLED


def test_pause_ends_paused_and_interruption_without_a_wish_goes_on(store: Store) -> None:
    with store.write() as tx:
        pausing = running(tx)
        jobs.request_pause(tx, pausing.job_id)
        jobs.apply_job_transition(tx, pausing.job_id, JobState.PAUSING, message="Pausing.")
        paused = finish(tx, pausing, outcomes.interrupted())
        assert last_event(tx, paused) == ("The job is paused at step 0; it holds no device and costs nothing.", "info")
        going_on = finish(tx, running(tx), outcomes.interrupted())
    assert (paused.state, paused.pause_requested_at) == (JobState.PAUSED, None)
    assert (going_on.state, going_on.platform_failures) == (JobState.QUEUED, 0)


def test_budget_ends_the_job_with_its_reason(store: Store) -> None:
    with store.write() as tx:
        spent = Failure(kind=FailureKind.BUDGET, message="The job reached max_cost_usd.")
        job = finish(tx, running(tx), outcomes.interrupted(spent))
        assert ledger.sum_for_job(tx, job.job_id) == (600_000, 0)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "budget_exceeded"


def test_attempt_that_was_never_launched_costs_nothing(store: Store) -> None:
    with store.write() as tx:
        attempt = rows.add_attempt(tx, rows.add_queued_job(tx))
        end = outcomes.lost("Ray did not answer.")
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, end, ended_at=tx.now() + HOUR)
        assert ledger.list_entries(tx) == []
        assert jobs.get_job(tx, attempt.job_id).state is JobState.QUEUED


def test_attempt_ends_once(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)

    def lose() -> None:
        with store.write() as tx:
            finish(tx, attempt, outcomes.lost("Gone."))

    results = run_together([lose] * 6)
    assert results.count(None) == 1
    assert sum(isinstance(result, LeaseLostError) for result in results) == 5
    with store.read() as tx:
        assert len(ledger.list_entries(tx)) == 1
        assert jobs.get_job(tx, attempt.job_id).platform_failures == 1


def test_job_that_has_ended_already_stays_as_it_is(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)
        ended = jobs.apply_job_transition(tx, attempt.job_id, JobState.CANCELLED, message="Cancelled by an admin.")
        assert finish(tx, attempt, outcomes.lost("Gone.")) == ended
        assert attempts.get_attempt(tx, attempt.attempt_id).state is AttemptState.LOST


def test_end_before_the_start_costs_nothing(store: Store) -> None:
    with store.write() as tx:
        attempt = running(tx)
        job = finish(tx, attempt, outcomes.failed(FailureKind.BAD_DATA, "x"), after=-HOUR)
        assert attempts.get_attempt(tx, attempt.attempt_id).ended_at == attempt.started_at
        assert ledger.sum_for_job(tx, job.job_id) == (0, 0)


lives = st.lists(
    st.tuples(st.integers(0, 10**11), st.lists(st.integers(0, 10**11), max_size=2), st.booleans()),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=lives, price=st.integers(0, 10**9), share=st.integers(1, 80 * rows.GIB))
def test_bill_is_the_sum_of_its_entries_and_no_moment_is_in_it_twice(
    store: Store, lives: list[tuple[int, list[int], bool]], price: int, share: int
) -> None:
    """A life is an attempt: microseconds that it ran, when it stored checkpoints, and whether the platform lost it."""
    rate = Rate(price_usd_micros_per_hour=price, reserved_bytes=share, device_bytes=80 * rows.GIB)
    with store.write() as tx:
        job = rows.add_queued_job(tx)
        for microseconds, checkpoint_microseconds, is_lost in lives:
            attempt = running(tx, job=job, rate=rate)
            for step, moment in enumerate(checkpoint_microseconds, start=1):
                at = attempt.started_at + timedelta(microseconds=moment)
                checkpoints.insert_checkpoint(tx, rows.make_checkpoint(attempt, step=step, created_at=at))
            ending = outcomes.lost("Gone.") if is_lost else outcomes.interrupted()
            job = finish(tx, attempt, ending, after=timedelta(microseconds=microseconds))
        entries = ledger.list_entries(tx, job_id=job.job_id)
        billed, lost = ledger.sum_for_job(tx, job.job_id)
        assert ledger.sum_by_job(tx, [job.job_id]) == ({job.job_id: (billed, lost)} if entries else {})
        assert ledger.sum_for_team(tx, job.team_id) == (billed, lost)
    assert billed == sum(entry.amount_usd_micros for entry in entries if entry.billed)
    assert lost == sum(entry.amount_usd_micros for entry in entries if not entry.billed)
    ran = {attempt.attempt_id: timedelta() for attempt in attempts_of(store, job)}
    for entry in entries:
        ran[entry.attempt_id] += entry.ended_at - entry.started_at
    assert list(ran.values()) == [timedelta(microseconds=life[0]) for life in lives]
    exact = sum(price * life[0] * share / (3.6e9 * 80 * rows.GIB) for life in lives)
    assert abs(billed + lost - exact) <= len(entries) / 2 + 1e-6 * exact


def attempts_of(store: Store, job: Job) -> list[Attempt]:
    with store.read() as tx:
        return attempts.list_attempts(tx, job.job_id)
