"""Jobs on both engines: creation, listing, and the one guarded write that moves them."""

import threading
from datetime import timedelta

import pytest

from orchestrator.domain.errors import ConflictError, IllegalTransitionError, InvalidRequestError, NotFoundError
from orchestrator.domain.jobs import Job, JobError
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import FINAL_JOB_STATES, JOB_MOVES, JobState
from orchestrator.store import events, files, jobs
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store, WriteTx
from tests.support import rows
from tests.support.queues import order_queue
from tests.support.threads import run_overlapping, run_together

PATHS = {
    JobState.VALIDATING_FILES: (),
    JobState.QUEUED: (JobState.QUEUED,),
    JobState.RUNNING: (JobState.QUEUED, JobState.RUNNING),
    JobState.PAUSING: (JobState.QUEUED, JobState.RUNNING, JobState.PAUSING),
    JobState.PAUSED: (JobState.PAUSED,),
    JobState.SUCCEEDED: (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED),
    JobState.FAILED: (JobState.FAILED,),
    JobState.CANCELLED: (JobState.CANCELLED,),
}
"""A shortest way into each state."""
ERROR = JobError(code="bad_data", message="Line 3 is not JSON.", param="training_file")


def move(tx: WriteTx, job: Job, to: JobState) -> Job:
    changes = {"error": ERROR} if to is JobState.FAILED else {}
    return jobs.apply_job_transition(tx, job.job_id, to, message=f"Now {to}.", changes=changes)


def add_job_in(tx: WriteTx, state: JobState) -> Job:
    job = rows.add_job(tx)
    for step in PATHS[state]:
        job = move(tx, job, step)
    return job


def test_new_job_comes_back_whole(store: Store) -> None:
    with store.write() as tx:
        team = rows.add_team(tx)
        spec = {"suffix": "support", "metadata": {"a": "1"}, "priority": 5, "max_cost_usd": "1.25", "lora": {"r": 8}}
        job = rows.add_job(tx, team.team_id, **spec)
        now = tx.now()
    with store.read() as tx:
        assert jobs.get_job(tx, job.job_id) == job
    assert (job.state, job.created_at, job.team_id) == (JobState.VALIDATING_FILES, now, team.team_id)
    assert job.spec == JobSpec(**{"model": "smol", "training_file": job.spec.training_file, **spec})
    assert job.spec.max_cost_usd_micros == 1_250_000


def test_another_teams_job_is_not_found(store: Store) -> None:
    with store.write() as tx:
        job, other = rows.add_job(tx), rows.add_team(tx)
    with store.read() as tx:
        assert jobs.get_job(tx, job.job_id, job.team_id) == job
        with pytest.raises(NotFoundError):
            jobs.get_job(tx, job.job_id, other.team_id)
        with pytest.raises(NotFoundError):
            jobs.get_job(tx, "ftjob-none")


def test_only_live_files_of_the_team_are_locked_for_a_job(store: Store) -> None:
    with store.write() as tx:
        team, other = rows.add_team(tx), rows.add_team(tx)
        own, foreign, deleted, expired = (
            rows.add_file(tx, team.team_id),
            rows.add_file(tx, other.team_id),
            rows.add_file(tx, team.team_id),
            rows.add_file(tx, team.team_id, expires_at=tx.now() - timedelta(seconds=1)),
        )
        files.mark_file_deleted(tx, deleted.file_id)
        asked = [own.file_id, foreign.file_id, deleted.file_id, expired.file_id, "file-none"]
        assert files.lock_files(tx, asked, team.team_id) == {own.file_id: own}


def test_file_of_a_job_that_is_just_being_submitted_is_not_deleted(store: Store) -> None:
    with store.write() as tx:
        team = rows.add_team(tx)
        file = rows.add_file(tx, team.team_id)
    submitted, refused = run_overlapping(
        store,
        lambda tx: rows.add_job(tx, team.team_id, training_file=file.file_id),
        lambda tx: files.mark_file_deleted(tx, file.file_id),
    )
    assert isinstance(submitted, Job)
    assert isinstance(refused, ConflictError)


def test_file_that_is_just_being_deleted_is_not_used(store: Store) -> None:
    with store.write() as tx:
        team = rows.add_team(tx)
        file = rows.add_file(tx, team.team_id)
    deleted, refused = run_overlapping(
        store,
        lambda tx: files.mark_file_deleted(tx, file.file_id),
        lambda tx: rows.add_job(tx, team.team_id, training_file=file.file_id),
    )
    assert deleted is None
    assert isinstance(refused, InvalidRequestError)


def test_deleting_a_file_and_submitting_a_job_exclude_each_other(store: Store) -> None:
    for _ in range(8):
        with store.write() as tx:
            team = rows.add_team(tx)
            file = rows.add_file(tx, team.team_id)

        def submit(team=team, file=file) -> None:
            with store.write() as tx:
                rows.add_job(tx, team.team_id, training_file=file.file_id)

        def delete(file=file) -> None:
            with store.write() as tx:
                files.mark_file_deleted(tx, file.file_id)

        results = run_together([submit, delete])
        assert sum(result is None for result in results) == 1, results


@pytest.mark.parametrize("state", list(JobState))
def test_exactly_the_legal_moves_are_made(store: Store, state: JobState) -> None:
    with store.write() as tx:
        for target in JobState:
            job = add_job_in(tx, state)
            seq = 1 + len(PATHS[state])
            if target in JOB_MOVES[state]:
                moved = move(tx, job, target)
                assert moved.state is target
                assert (moved.finished_at is not None) == (target in FINAL_JOB_STATES)
                seq += 1
            else:
                with pytest.raises(IllegalTransitionError):
                    move(tx, job, target)
                assert jobs.get_job(tx, job.job_id) == job
            assert [event.seq for event in events.list_events_since(tx, job.job_id, 0, 100)] == list(range(1, seq + 1))


def test_move_of_a_job_that_is_not_there(store: Store) -> None:
    with store.write() as tx, pytest.raises(NotFoundError):
        jobs.apply_job_transition(tx, "ftjob-none", JobState.QUEUED, message="?")


def test_move_sets_fields_and_says_so(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_job(tx)
        changes = {"footprints": {"cpu": 5}, "estimate": {"seconds": 3}, "total_steps": 40, "phase": "waiting"}
        queued = jobs.apply_job_transition(
            tx, job.job_id, JobState.QUEUED, message="Valid.", level="warn", data={"rows": 3}, changes=changes
        )
        failed = move(tx, queued, JobState.FAILED)
        with pytest.raises(ValueError, match="state"):
            jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="?", changes={"state": "queued"})
    assert (queued.footprints, queued.estimate, queued.total_steps) == ({"cpu": 5}, {"seconds": 3}, 40)
    assert (failed.error, failed.phase) == (ERROR, None)
    with store.read() as tx:
        newest, second, _ = events.list_events(tx, job.job_id).items
    assert (second.message, second.level, second.data) == ("Valid.", "warn", {"state": "queued", "rows": 3})
    assert newest.message == "Now failed."


def test_cancel_wish_beats_queueing_and_starting(store: Store) -> None:
    with store.write() as tx:
        validating, queued = rows.add_job(tx), rows.add_queued_job(tx)
        for job, to in ((validating, JobState.QUEUED), (queued, JobState.RUNNING)):
            wished = jobs.request_cancel(tx, job.job_id)
            assert jobs.request_cancel(tx, job.job_id) == wished
            with pytest.raises(IllegalTransitionError):
                move(tx, job, to)
            assert jobs.clear_pause_request(tx, job.job_id).cancel_requested_at is not None
            assert move(tx, job, JobState.CANCELLED).finished_at == tx.now()
            with pytest.raises(IllegalTransitionError):
                jobs.request_cancel(tx, job.job_id)


def test_pause_wish_holds_a_job_back_until_it_is_resumed(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_queued_job(tx)
        other = rows.add_queued_job(tx, job.team_id)
        jobs.request_pause(tx, job.job_id)
        assert order_queue(tx, tx.now()) == [other.job_id]
        with pytest.raises(IllegalTransitionError):
            move(tx, job, JobState.RUNNING)
        assert move(tx, job, JobState.PAUSED).pause_requested_at is None
    with store.write() as tx:
        resumed = move(tx, job, JobState.QUEUED)
        assert order_queue(tx, tx.now()) == [other.job_id, resumed.job_id]
    assert resumed.queued_at > job.queued_at


def test_cancel_and_start_at_once_have_one_outcome(store: Store) -> None:
    """Whoever comes first: a job is never started after its cancel was written down."""
    for _ in range(10):
        with store.write() as tx:
            job = rows.add_queued_job(tx)

        def cancel(job=job) -> JobState:
            with store.write() as tx:
                state = jobs.request_cancel(tx, job.job_id).state
                return state if state is JobState.RUNNING else move(tx, job, JobState.CANCELLED).state

        def start(job=job) -> JobState:
            with store.write() as tx:
                return move(tx, job, JobState.RUNNING).state

        cancelled, started = run_together([cancel, start])
        with store.read() as tx:
            state = jobs.get_job(tx, job.job_id).state
        if isinstance(started, IllegalTransitionError):
            assert (cancelled, state) == (JobState.CANCELLED, JobState.CANCELLED)
        else:
            assert (cancelled, state) == (JobState.RUNNING, JobState.RUNNING)


def test_jobs_stand_by_priority_and_age_and_a_retry_waits_for_its_moment(store: Store) -> None:
    with store.write() as tx:
        team_id = rows.add_team(tx).team_id
        old, young, first = (rows.add_queued_job(tx, team_id, priority=n) for n in (0, 0, 9))
        held = rows.add_job(tx, team_id)
        later = tx.now() + timedelta(seconds=30)
        jobs.apply_job_transition(tx, held.job_id, JobState.QUEUED, message="Later.", changes={"not_before_at": later})
    with store.read() as tx:
        ready = [first.job_id, old.job_id, young.job_id]
        assert order_queue(tx, tx.now()) == ready
        assert order_queue(tx, later) == [*ready, held.job_id]


def test_progress_is_shown_until_the_end(store: Store) -> None:
    with store.write() as tx:
        job = rows.add_queued_job(tx)
        jobs.record_progress(tx, job.job_id, step=3, total_steps=9, trained_tokens=100, phase="training")
        jobs.record_progress(tx, job.job_id, phase="saving")
        jobs.record_progress(tx, job.job_id)
        shown = jobs.get_job(tx, job.job_id)
        move(tx, job, JobState.CANCELLED)
        jobs.record_progress(tx, job.job_id, step=4, phase="training")
        ended = jobs.get_job(tx, job.job_id)
    assert (shown.current_step, shown.total_steps, shown.trained_tokens, shown.phase) == (3, 9, 100, "saving")
    assert (ended.current_step, ended.phase) == (3, None)


def test_filters_select_exactly_what_they_say(store: Store) -> None:
    with store.write() as tx:
        team, other = rows.add_team(tx), rows.add_team(tx)
        plain = rows.add_job(tx, team.team_id)
        empty = rows.add_job(tx, team.team_id, metadata={})
        ab = rows.add_job(tx, team.team_id, metadata={"a": "1", "b": ""}, model="large")
        a2 = rows.add_queued_job(tx, team.team_id, metadata={"a": "2"})
        foreign = rows.add_job(tx, other.team_id, metadata={"a": "1"})
        cases = [
            (JobFilter(), [foreign, a2, ab, empty, plain]),
            (JobFilter(team_id=team.team_id), [a2, ab, empty, plain]),
            (JobFilter(metadata={"a": "1"}), [foreign, ab]),
            (JobFilter(metadata={"a": "1", "b": ""}), [ab]),
            (JobFilter(metadata={"b": "1"}), []),
            (JobFilter(team_id=team.team_id, metadata={"a": "1"}), [ab]),
            (JobFilter(metadata_is_null=True), [plain]),
            (JobFilter(model="large"), [ab]),
            (JobFilter(states={JobState.QUEUED}), [a2]),
            (JobFilter(states=set()), []),
        ]
        for job_filter, expected in cases:
            assert list(list_jobs(tx, job_filter, limit=50).items) == expected, job_filter
        assert jobs.list_in_state(tx, {JobState.VALIDATING_FILES}, 2) == [plain, empty]
        assert jobs.find_states(tx, [a2.job_id, plain.job_id, "ftjob-none"]) == {
            a2.job_id: JobState.QUEUED,
            plain.job_id: JobState.VALIDATING_FILES,
        }
        assert jobs.count_by_state(tx, team.team_id) == {JobState.VALIDATING_FILES: 3, JobState.QUEUED: 1}


def test_pages_neither_skip_nor_repeat_while_jobs_arrive(store: Store) -> None:
    with store.write() as tx:
        team = rows.add_team(tx)
        expected = [rows.add_job(tx, team.team_id).job_id for _ in range(25)]
    arriving, stop = threading.Event(), threading.Event()

    def arrive() -> None:
        while not stop.is_set():
            with store.write() as tx:
                rows.add_job(tx, team.team_id)
            arriving.set()

    thread = threading.Thread(target=arrive)
    thread.start()
    arriving.wait()
    seen: list[str] = []
    more = True
    while more and (not seen or expected[0] not in seen):
        with store.read() as tx:
            page = list_jobs(tx, JobFilter(team_id=team.team_id), limit=4, after=seen[-1] if seen else None)
        seen.extend(job.job_id for job in page.items)
        more = page.has_more
    stop.set()
    thread.join()
    assert len(seen) == len(set(seen))
    assert [job_id for job_id in reversed(seen) if job_id in expected] == expected


def test_last_page_says_that_it_is_the_last(store: Store) -> None:
    with store.write() as tx:
        team = rows.add_team(tx)
        added = [rows.add_job(tx, team.team_id) for _ in range(4)]
        team_filter = JobFilter(team_id=team.team_id)
        first = list_jobs(tx, team_filter, limit=2)
        last = list_jobs(tx, team_filter, limit=2, after=first.items[-1].job_id)
        beyond = list_jobs(tx, team_filter, limit=2, after=last.items[-1].job_id)
    assert (first.items + last.items, beyond.items) == (tuple(reversed(added)), ())
    assert (first.has_more, last.has_more, beyond.has_more) == (True, False, False)


def test_after_must_be_in_the_list(store: Store) -> None:
    with store.write() as tx:
        job, foreign = rows.add_job(tx), rows.add_job(tx)
        for after in (foreign.job_id, "ftjob-none", "", job.spec.training_file):
            with pytest.raises(InvalidRequestError) as caught:
                list_jobs(tx, JobFilter(team_id=job.team_id), after=after)
            assert caught.value.param == "after"
