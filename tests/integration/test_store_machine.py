"""Random lives of jobs on both engines: submit, place, launch, checkpoint, end, cancel, pause, take over, replay.

After every step all invariants hold that must hold of any history, whatever its order.
"""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from orchestrator.domain import outcomes
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import IllegalTransitionError, LeaseLostError
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.states import (
    ACTIVE_ATTEMPT_STATES,
    ATTEMPT_MOVES,
    FINAL_JOB_STATES,
    JOB_MOVES,
    AttemptState,
    JobState,
)
from orchestrator.store import attempts, checkpoints, events, jobs, ledger, logs
from orchestrator.store.session import Store, WriteTx
from tests.support import rows

ENDS = (
    outcomes.cancelled(),
    outcomes.interrupted(),
    outcomes.lost("Gone."),
    outcomes.failed(FailureKind.BAD_DATA, "Row 3."),
    outcomes.failed(FailureKind.STORAGE, "No answer."),
    outcomes.succeeded(),
)
HOLDING = {JobState.RUNNING, JobState.PAUSING}


class JobLives(RuleBasedStateMachine):
    """Works on jobs of its own, so machines may share a database."""

    submitted = Bundle("submitted")

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.job_ids: list[str] = []
        self.cancelled_at_seq: dict[str, int] = {}
        self.stale: list[Attempt] = []
        with store.write() as tx:
            self.team_id = rows.add_team(tx).team_id
            self.file_id = rows.add_file(tx, self.team_id).file_id

    @rule(target=submitted)
    def submit(self) -> str:
        with self.store.write() as tx:
            job = rows.add_job(tx, self.team_id, training_file=self.file_id)
        self.job_ids.append(job.job_id)
        return job.job_id

    @rule(job_id=submitted, to=st.sampled_from(JobState))
    def try_any_move_that_keeps_no_attempt_behind(self, job_id: str, to: JobState) -> None:
        """Moves that services make; those of a job with an attempt are made by the attempt's end."""
        with self.store.write() as tx:
            job = jobs.get_job(tx, job_id)
            if to in {JobState.RUNNING, JobState.FAILED} or (job.state in HOLDING and to is not JobState.PAUSING):
                return
            opposed = to is JobState.QUEUED and job.cancel_requested_at is not None
            if to in JOB_MOVES[job.state] and not opposed:
                assert jobs.apply_job_transition(tx, job_id, to, message="Moved.").state is to
            else:
                with pytest.raises(IllegalTransitionError):
                    jobs.apply_job_transition(tx, job_id, to, message="Moved.")

    @rule(job_id=submitted)
    def place(self, job_id: str) -> None:
        with self.store.write() as tx:
            job = jobs.get_job(tx, job_id)
            opposed = job.cancel_requested_at or job.pause_requested_at
            if job.state is JobState.QUEUED and not opposed:
                rows.add_attempt(tx, job)
            else:
                with pytest.raises(IllegalTransitionError):
                    rows.add_attempt(tx, job)

    def active(self, tx: WriteTx, job_id: str) -> Attempt | None:
        found = attempts.list_newest_of(tx, [job_id]).get(job_id)
        return found if found and found.state in ACTIVE_ATTEMPT_STATES else None

    @rule(job_id=submitted)
    def go_on(self, job_id: str) -> None:
        with self.store.write() as tx:
            attempt = self.active(tx, job_id)
            going = sorted(ATTEMPT_MOVES[attempt.state] & ACTIVE_ATTEMPT_STATES) if attempt else []
            if attempt and going:
                attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, AttemptState(going[0]))

    @rule(job_id=submitted, end=st.sampled_from(ENDS), seconds=st.integers(0, 7200))
    def finish(self, job_id: str, end: AttemptEnd, seconds: int) -> None:
        with self.store.write() as tx:
            attempt = self.active(tx, job_id)
            if attempt is None:
                return
            if end.state in ATTEMPT_MOVES[attempt.state]:
                self.end(tx, attempt, end, seconds)
            else:
                with pytest.raises(LeaseLostError):
                    self.end(tx, attempt, end, seconds)

    def end(self, tx: WriteTx, attempt: Attempt, end: AttemptEnd, seconds: int) -> None:
        ended_at = tx.now() + timedelta(seconds=seconds)
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, end, ended_at=ended_at)

    @rule(job_id=submitted, seconds=st.integers(0, 7200))
    def checkpoint(self, job_id: str, seconds: int) -> None:
        with self.store.write() as tx:
            if attempt := self.active(tx, job_id):
                at = tx.now() + timedelta(seconds=seconds)
                checkpoints.insert_checkpoint(tx, rows.make_checkpoint(attempt, step=seconds, created_at=at))

    @rule(job_id=submitted, first=st.integers(1, 5), length=st.integers(0, 5))
    def replay(self, job_id: str, first: int, length: int) -> None:
        with self.store.write() as tx:
            if attempt := self.active(tx, job_id):
                lines = rows.make_lines(first, first + length)
                logs.append_logs(tx, job_id, attempt.attempt_id, attempt.number, lines)

    @rule(job_id=submitted)
    def cancel(self, job_id: str) -> None:
        with self.store.write() as tx:
            if jobs.get_job(tx, job_id).state in FINAL_JOB_STATES:
                with pytest.raises(IllegalTransitionError):
                    jobs.request_cancel(tx, job_id)
                return
            job = jobs.request_cancel(tx, job_id)
            if job.state not in HOLDING:
                jobs.apply_job_transition(tx, job_id, JobState.CANCELLED, message="Cancelled.")
            newest = events.list_events(tx, job_id, limit=1).items
            self.cancelled_at_seq.setdefault(job_id, newest[0].seq if newest else 0)

    @rule(job_id=submitted)
    def pause(self, job_id: str) -> None:
        with self.store.write() as tx:
            if jobs.get_job(tx, job_id).state not in FINAL_JOB_STATES:
                jobs.request_pause(tx, job_id)

    @rule()
    def take_over(self) -> None:
        with self.store.write() as tx:
            self.stale = [a for a in attempts.list_unreleased(tx) if a.team_id == self.team_id]
            attempts.claim_attempts(tx, owner="control-2", lease_seconds=60)

    @rule(end=st.sampled_from(ENDS))
    def act_with_stale_tokens(self, end: AttemptEnd) -> None:
        for attempt in self.stale:
            with self.store.write() as tx, pytest.raises(LeaseLostError):
                self.end(tx, attempt, end, 1)

    @rule(job_id=consumes(submitted))
    def forget(self, job_id: str) -> None:
        """Leave this job alone from now on; its invariants are looked at all the same."""

    @invariant()
    def histories_are_sound(self) -> None:
        with self.store.read() as tx:
            for job_id in self.job_ids:
                job, tries = jobs.get_job(tx, job_id), attempts.list_attempts(tx, job_id)
                active = [attempt for attempt in tries if attempt.state in ACTIVE_ATTEMPT_STATES]
                assert len(active) == (1 if job.state in HOLDING else 0)
                assert [attempt.number for attempt in tries] == list(range(1, job.attempts + 1))
                assert (job.finished_at is not None) == (job.state in FINAL_JOB_STATES)
                history = events.list_events_since(tx, job_id, 0, 1000)
                assert [event.seq for event in history] == list(range(1, len(history) + 1))
                states = [
                    JobState.VALIDATING_FILES,
                    *(JobState(event.data["state"]) for event in history if event.data),
                ]
                assert all(after in JOB_MOVES[before] for before, after in pairwise(states))
                assert states[-1] is job.state
                since_cancel = [event for event in history if event.seq > self.cancelled_at_seq.get(job_id, 10**9)]
                assert not {event.data["state"] for event in since_cancel if event.data} & {"queued", "running"}

    @invariant()
    def bills_cover_exactly_what_ran(self) -> None:
        with self.store.read() as tx:
            for job_id in self.job_ids:
                entries = ledger.list_entries(tx, job_id=job_id)
                for attempt in attempts.list_attempts(tx, job_id):
                    own = [entry for entry in entries if entry.attempt_id == attempt.attempt_id]
                    if attempt.started_at is None or attempt.ended_at is None:
                        assert own == []
                        continue
                    marks = [attempt.started_at, *(entry.ended_at for entry in own)]
                    assert [entry.started_at for entry in own] == marks[:-1]
                    assert marks[-1] == attempt.ended_at
                total = sum(entry.amount_usd_micros for entry in entries)
                assert sum(ledger.sum_for_job(tx, job_id)) == total

    @invariant()
    def lines_are_stored_once(self) -> None:
        with self.store.read() as tx:
            for job_id in self.job_ids:
                lines = [(line.attempt_number, line.seq) for line in logs.list_logs(tx, job_id, limit=1000)]
                assert len(lines) == len(set(lines))


def test_random_lives_keep_every_promise(store: Store) -> None:
    chosen = settings(
        max_examples=15,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(lambda: JobLives(store), settings=chosen)
