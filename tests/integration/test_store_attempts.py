"""Attempts on both engines: one active per job, every write fenced by its token, and what an end does to the job."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from orchestrator.domain import outcomes
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import (
    ConflictError,
    IllegalTransitionError,
    LeaseLostError,
    NotFoundError,
)
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.protocol import StoredFile, Succeeded
from orchestrator.domain.states import ATTEMPT_MOVES, FINAL_ATTEMPT_STATES, AttemptState, JobState
from orchestrator.store import attempts, devices, events, jobs, ledger, logs
from orchestrator.store.attempts import Peaks
from orchestrator.store.session import Store, WriteTx
from tests.support import rows
from tests.support.queues import order_queue
from tests.support.threads import run_overlapping, run_together

FencedWrite = Callable[[WriteTx, Attempt], object]


def end(tx: WriteTx, attempt: Attempt, how: AttemptEnd, **changes: object) -> outcomes.JobMove:
    return attempts.end_attempt(
        tx, attempt.attempt_id, attempt.lease_token, how, ended_at=tx.now(), changes=changes or None
    )


def contact(tx: WriteTx, attempt: Attempt, *, before: int = 0, after: int = 5, **options: object) -> Attempt:
    return attempts.record_contact(
        tx,
        attempt.attempt_id,
        attempt.lease_token,
        cursor_before=before,
        cursor=after,
        lease_seconds=60,
        **options,  # type: ignore[arg-type]
    )


FENCED: dict[str, FencedWrite] = {
    "transition": lambda tx, a: attempts.apply_attempt_transition(
        tx, a.attempt_id, a.lease_token, AttemptState.VERIFYING
    ),
    "end": lambda tx, a: end(tx, a, outcomes.lost("The worker does not answer.")),
    "contact": contact,
    "lock": lambda tx, a: move(tx, attempts.lock_attempt(tx, a.attempt_id, a.lease_token), AttemptState.VERIFYING),
    "stop": lambda tx, a: attempts.request_stop(tx, a.attempt_id, a.lease_token, "cancelled"),
}
"""Every write about an attempt that is active."""


def snapshot(store: Store, attempt: Attempt) -> tuple[object, ...]:
    with store.read() as tx:
        return (
            attempts.get_attempt(tx, attempt.attempt_id),
            jobs.get_job(tx, attempt.job_id),
            events.list_events(tx, attempt.job_id, limit=100),
            ledger.list_entries(tx, job_id=attempt.job_id),
        )


def test_new_attempt_comes_back_whole(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_queued_job(tx)
        attempt = rows.add_attempt(tx, job)
        assert jobs.get_job(tx, job.job_id).attempts == 1
        now = tx.now()
    with store.read() as tx:
        assert attempts.get_attempt(tx, attempt.attempt_id, job.team_id) == attempt
        assert attempts.list_attempts(tx, job.job_id) == [attempt]
        assert attempts.list_newest_of(tx, [job.job_id, "ftjob-none"]) == {job.job_id: attempt}
        with pytest.raises(NotFoundError):
            attempts.get_attempt(tx, attempt.attempt_id, "team-other")
    assert (attempt.state, attempt.number, attempt.cursor) == (AttemptState.ASSIGNED, 1, 0)
    assert (attempt.lease_generation, attempt.lease_expires_at) == (1, now + timedelta(seconds=120))
    assert (attempt.rate, attempt.started_at, attempt.team_id) == (rows.RATE, None, job.team_id)


@pytest.mark.parametrize("name", list(FENCED))
def test_write_with_a_token_that_was_replaced_before_changes_nothing(store: Store, name: str) -> None:
    with store.write() as tx:
        stale = rows.add_running_attempt(tx)
        (fresh,) = attempts.claim_attempts(tx, owner="control-2", lease_seconds=60)
    before = snapshot(store, stale)
    with store.write() as tx, pytest.raises(LeaseLostError):
        FENCED[name](tx, stale)
    assert snapshot(store, stale) == before
    with store.write() as tx:
        FENCED[name](tx, fresh)
    assert snapshot(store, stale) != before


@pytest.mark.parametrize("name", list(FENCED))
def test_write_with_a_token_that_is_replaced_meanwhile_changes_nothing(store: Store, name: str) -> None:
    """The takeover holds the row when the stale writer comes; the writer waits for it and then finds its token gone."""
    with store.write() as tx:
        stale = rows.add_running_attempt(tx)
    _, *before = snapshot(store, stale)
    claimed, refused = run_overlapping(
        store,
        lambda tx: attempts.claim_attempts(tx, owner="control-2", lease_seconds=60),
        lambda tx: FENCED[name](tx, stale),
    )
    assert isinstance(claimed, list)
    assert isinstance(refused, LeaseLostError)
    attempt, *after = snapshot(store, stale)
    assert after == before
    assert (attempt.lease_owner, attempt.state, attempt.cursor) == ("control-2", AttemptState.RUNNING, 0)


def test_token_is_refused_for_another_attempt(store: Store) -> None:
    with store.write() as tx:
        first, second = rows.add_running_attempt(tx), rows.add_running_attempt(tx)
        with pytest.raises(LeaseLostError):
            attempts.request_stop(tx, first.attempt_id, second.lease_token, "cancelled")


@pytest.mark.parametrize("state", [s for s in AttemptState if s not in FINAL_ATTEMPT_STATES])
def test_exactly_the_legal_moves_are_made(store: Store, state: AttemptState) -> None:
    path = [AttemptState.ASSIGNED, AttemptState.LAUNCHING, AttemptState.RUNNING, AttemptState.VERIFYING]
    for target in AttemptState:
        with store.write() as tx:
            attempt = rows.add_attempt(tx, rows.add_queued_job(tx))
            for step in path[1 : path.index(state) + 1]:
                attempt = attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, step)
            if target not in ATTEMPT_MOVES[state]:
                with pytest.raises(LeaseLostError):
                    move(tx, attempt, target)
                assert attempts.get_attempt(tx, attempt.attempt_id) == attempt
                continue
            move(tx, attempt, target)
            moved = attempts.get_attempt(tx, attempt.attempt_id)
        assert moved.state is target
        assert (moved.ended_at is not None) == (target in FINAL_ATTEMPT_STATES)


def move(tx: WriteTx, attempt: Attempt, target: AttemptState) -> None:
    if target not in FINAL_ATTEMPT_STATES:
        attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, target)
        return
    failure = outcomes.failed(FailureKind.PLATFORM, "Broken.").failure
    end(
        tx,
        attempt,
        AttemptEnd(state=target, failure=failure if target in (AttemptState.FAILED, AttemptState.LOST) else None),
    )


def test_launch_starts_the_clock_and_verifying_keeps_what_the_worker_said(store: Store) -> None:
    said = Succeeded(
        key_prefix="p/",
        files=(StoredFile(name="a", size_bytes=1, sha256="0"),),
        step=9,
        trained_tokens=5,
        metrics={},
        lineage={},
    )
    with store.write() as tx:
        attempt = rows.add_attempt(tx, rows.add_queued_job(tx))
        launched = attempts.apply_attempt_transition(
            tx, attempt.attempt_id, attempt.lease_token, AttemptState.LAUNCHING
        )
        assert launched.started_at == tx.now()
        attempts.apply_attempt_transition(
            tx, attempt.attempt_id, attempt.lease_token, AttemptState.RUNNING, changes={"phase": "training"}
        )
        changes = {"result": said, "phase": "verifying"}
        verifying = attempts.apply_attempt_transition(
            tx, attempt.attempt_id, attempt.lease_token, AttemptState.VERIFYING, changes=changes
        )
        with pytest.raises(ValueError, match="end_attempt"):
            attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, AttemptState.LOST)
    assert (verifying.result, verifying.phase, verifying.started_at) == (said, "verifying", launched.started_at)


def test_job_has_one_active_attempt_even_when_many_start_it(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_queued_job(tx)

    def start() -> Attempt:
        with store.write() as tx:
            return rows.add_attempt(tx, job)

    results = run_together([start] * 8)
    assert sum(isinstance(result, Attempt) for result in results) == 1
    assert sum(isinstance(result, IllegalTransitionError) for result in results) == 7
    with store.read() as tx:
        assert len(attempts.list_active(tx)) == 1


def test_database_itself_refuses_a_second_active_attempt(store: Store) -> None:
    with store.write() as tx:
        first = rows.add_running_attempt(tx)
    new = attempts.NewAttempt(
        job_id=first.job_id,
        device_id="node-1/cpu:0",
        node_name="node-1",
        device_type="cpu",
        reserved_bytes=1,
        rate=rows.RATE,
        lease_owner="control-2",
        lease_seconds=60,
    )

    def insert() -> Attempt:
        with store.write() as tx:
            return attempts.insert_attempt(tx, new)

    for result in run_together([insert] * 4):
        assert isinstance(result, ConflictError)
    with store.write() as tx:
        end(tx, first, outcomes.lost("Gone."))
        assert attempts.insert_attempt(tx, new).number == 2


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PAUSED])
def test_a_job_never_waits_while_an_attempt_of_it_is_active(store: Store, state: JobState) -> None:
    """Placement would try to give it another one for ever."""
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
    with store.write() as tx, pytest.raises(IllegalTransitionError):
        jobs.apply_job_transition(tx, attempt.job_id, state, message="Come back.")
    with store.read() as tx:
        assert jobs.get_job(tx, attempt.job_id).state is JobState.RUNNING
        assert order_queue(tx, tx.now() + timedelta(days=1)) == []
    with store.write() as tx:
        assert end(tx, attempt, outcomes.lost("Gone.")).state is JobState.QUEUED
    with store.write() as tx:
        if state is JobState.PAUSED:
            jobs.apply_job_transition(tx, attempt.job_id, state, message="It holds nothing now.")
        assert jobs.get_job(tx, attempt.job_id).state is state


def test_finished_job_takes_no_attempt(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_job(tx)
        with pytest.raises(IllegalTransitionError):
            attempts.insert_attempt(
                tx,
                attempts.NewAttempt(
                    job_id=job.job_id,
                    device_id="d",
                    node_name="n",
                    device_type="cpu",
                    reserved_bytes=1,
                    rate=rows.RATE,
                    lease_owner="o",
                    lease_seconds=1,
                ),
            )


def test_contact_moves_the_cursor_once_and_renews_the_lease(store: Store) -> None:
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
        first = contact(tx, attempt, peaks=Peaks(allocated_bytes=5, reserved_bytes=7, device_bytes=9), phase="training")
        second = contact(tx, attempt, before=5, after=8, peaks=Peaks(allocated_bytes=3, reserved_bytes=8))
        now = tx.now()
    with store.write() as tx, pytest.raises(LeaseLostError):
        contact(tx, attempt, before=5, after=8)
    assert (first.cursor, second.cursor, second.phase) == (5, 8, "training")
    assert (second.last_contact_at, second.lease_expires_at) == (now, now + timedelta(seconds=60))
    peaks = (second.peak_allocated_bytes, second.peak_reserved_bytes, second.peak_device_bytes)
    assert peaks == (5, 8, 9)


def test_batch_that_two_pulls_bring_is_stored_once(store: Store) -> None:
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)

    def take_over() -> int:
        with store.write() as tx:
            stored = logs.append_logs(tx, attempt.job_id, attempt.attempt_id, 1, rows.make_lines(1, 50))
            contact(tx, attempt, before=0, after=50)
            return stored

    results = run_together([take_over] * 5)
    assert sorted(map(str, (r for r in results if isinstance(r, int)))) == ["50"]
    assert sum(isinstance(result, LeaseLostError) for result in results) == 4
    with store.read() as tx:
        assert [line.seq for line in logs.list_logs(tx, attempt.job_id, limit=200)] == list(range(1, 51))


def test_claiming_takes_every_attempt_that_holds_a_device(store: Store) -> None:
    with store.write() as tx:
        running, ended, released = (rows.add_running_attempt(tx) for _ in range(3))
        for attempt in (ended, released):
            end(tx, attempt, outcomes.lost("Gone."))
        attempts.release_attempt(tx, released.attempt_id, released.lease_token)
    with store.write() as tx:
        claimed = attempts.claim_attempts(tx, owner="control-2", lease_seconds=60)
    assert [attempt.attempt_id for attempt in claimed] == [running.attempt_id, ended.attempt_id]
    for old, new in zip((running, ended), claimed, strict=True):
        assert (new.lease_owner, new.lease_generation) == ("control-2", 2)
        assert new.lease_token != old.lease_token


def test_device_is_held_until_the_release(store: Store) -> None:
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
        with pytest.raises(LeaseLostError):
            attempts.release_attempt(tx, attempt.attempt_id, attempt.lease_token)
        (use,) = devices.list_uses(tx)
        assert (use.attempt_id, use.reserved_bytes, use.draining) == (attempt.attempt_id, attempt.reserved_bytes, False)
        end(tx, attempt, outcomes.lost("Gone."))
        (use,) = devices.list_uses(tx)
        assert use.draining
        assert attempts.list_active(tx) == []
        assert len(attempts.list_unreleased(tx)) == 1
        released = attempts.release_attempt(tx, attempt.attempt_id, attempt.lease_token)
        assert attempts.release_attempt(tx, attempt.attempt_id, attempt.lease_token) == released
        assert (devices.list_uses(tx), attempts.list_unreleased(tx)) == ([], [])


def test_stop_keeps_its_first_moment_and_its_newest_reason(store: Store) -> None:
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
        first = attempts.request_stop(tx, attempt.attempt_id, attempt.lease_token, "paused")
    with store.write() as tx:
        second = attempts.request_stop(tx, attempt.attempt_id, attempt.lease_token, "cancelled")
    assert (first.stop_reason, second.stop_reason) == ("paused", "cancelled")
    assert first.stop_requested_at == second.stop_requested_at
