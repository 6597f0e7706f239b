"""Events, logs, metrics and checkpoints on both engines: in order, without holes, exactly once."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.errors import InvalidRequestError, NotFoundError
from orchestrator.domain.protocol import Entry, LogLine, Metric
from orchestrator.domain.queries import LineQuery
from orchestrator.domain.states import JobState
from orchestrator.store import checkpoints, events, jobs, logs, metrics, sweeps
from orchestrator.store.session import Store
from tests.support import rows
from tests.support.threads import run_together

LATER = timedelta(days=1)


def test_events_are_numbered_without_holes_by_many_writers(store: Store) -> None:
    with store.write() as tx:
        job, other = rows.add_job(tx), rows.add_job(tx)

    def append(number: int) -> list[int]:
        seqs = []
        for _ in range(5):
            with store.write() as tx:
                seqs.append(events.append_event(tx, job.job_id, message=f"from {number}").seq)
        return seqs

    def append_and_fail() -> None:
        with store.write() as tx:
            events.append_event(tx, job.job_id, message="lost")
            raise ZeroDivisionError

    results = run_together([lambda n=n: append(n) for n in range(8)] + [append_and_fail] * 4)
    given = sorted(seq for result in results if isinstance(result, list) for seq in result)
    with store.read() as tx:
        stored = events.list_events_since(tx, job.job_id, 0, 100)
        assert events.get_last_seq(tx, other.job_id) == 1
    assert [1, *given] == [event.seq for event in stored] == list(range(1, 42))
    assert len({event.event_id for event in stored}) == 41


def test_events_page_both_ways(store: Store) -> None:
    with store.write() as tx:
        job, other = rows.add_job(tx), rows.add_job(tx)
        added = events.list_events_since(tx, job.job_id, 0, 1)
        added += [events.append_event(tx, job.job_id, message=str(n), data={"n": n}) for n in range(4)]
        foreign = events.append_event(tx, other.job_id, message="x", level="error", type="metrics")
    with store.read() as tx:
        newest = events.list_events(tx, job.job_id, limit=2)
        older = events.list_events(tx, job.job_id, limit=9, after=newest.items[-1].event_id)
        oldest = events.list_events(tx, job.job_id, limit=3, descending=False)
        rest = events.list_events(tx, job.job_id, limit=3, after=oldest.items[-1].event_id, descending=False)
        assert events.list_events_since(tx, job.job_id, 3, 10) == added[3:]
        assert events.get_event_seq(tx, job.job_id, added[2].event_id) == 3
        with pytest.raises(InvalidRequestError):
            events.list_events(tx, job.job_id, after=foreign.event_id)
        with pytest.raises(NotFoundError):
            events.get_event_seq(tx, job.job_id, foreign.event_id)
    assert (newest.items + older.items, newest.has_more, older.has_more) == (tuple(reversed(added)), True, False)
    assert (oldest.items + rest.items, oldest.has_more, rest.has_more) == (tuple(added), True, False)


def test_event_of_a_job_that_is_not_there(store: Store) -> None:
    with store.write() as tx, pytest.raises(NotFoundError):
        events.append_event(tx, "ftjob-none", message="?")


def test_followers_of_many_jobs_get_each_jobs_next_events(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "JOBS_PER_QUERY", 2)
    with store.write() as tx:
        followed = [rows.add_job(tx).job_id for _ in range(5)]
        for job_id in followed:
            for n in range(2):
                events.append_event(tx, job_id, message=str(n))
        cursors = {job_id: n % 4 for n, job_id in enumerate(followed)}
        found = events.list_events_of(tx, cursors, limit=100)
        assert len(events.list_events_of(tx, cursors, limit=2)) == 5
        assert events.list_events_of(tx, {}, limit=100) == []
    expected = [(job_id, seq) for job_id in sorted(followed) for seq in range(cursors[job_id] + 1, 4)]
    assert [(event.job_id, event.seq) for event in found] == expected


def test_replayed_entries_add_nothing(store: Store) -> None:
    entries = rows.make_lines(1, 300) + rows.make_metrics(301, 600)
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
    stored = []
    for batch in (entries[:400], entries, entries[200:]):
        with store.write() as tx:
            stored.append(
                (
                    logs.append_logs(tx, attempt.job_id, attempt.attempt_id, 1, batch),
                    metrics.append_metrics(tx, attempt.job_id, attempt.attempt_id, 1, batch),
                )
            )
    with store.read() as tx:
        lines = logs.list_logs(tx, attempt.job_id, limit=1000)
        figures = metrics.list_metrics(tx, attempt.job_id, limit=1000)
    assert stored == [(300, 100), (0, 200), (0, 0)]
    assert [(line.seq, line.text) for line in lines] == [(n, f"line {n}") for n in range(1, 301)]
    assert [(figure.seq, figure.step, figure.values) for figure in figures] == [
        (n, n, {"train_loss": 1 / n}) for n in range(301, 601)
    ]
    assert lines[0].at == datetime.fromtimestamp(1_790_000_001, UTC)


def test_logs_are_read_by_cursor_attempt_and_level(store: Store) -> None:
    with store.write() as tx:
        job_id = rows.add_job(tx).job_id
        logs.append_logs(tx, job_id, "attempt-1", 1, rows.make_lines(1, 4))
        loud = Entry(seq=1, at_unix=0, report=LogLine(stream="stderr", level="error", text="boom"))
        logs.append_logs(tx, job_id, "attempt-2", 2, [loud])
        lines = logs.list_logs(tx, job_id)
        assert [line.text for line in lines] == ["line 1", "line 2", "line 3", "line 4", "boom"]
        assert [line.log_id for line in lines] == sorted(line.log_id for line in lines)
        assert logs.list_logs(tx, job_id, after_id=lines[2].log_id, limit=1) == [lines[3]]
        assert (
            logs.list_logs(tx, job_id, which=LineQuery(attempt=2))
            == logs.list_logs(tx, job_id, which=LineQuery(level="error"))
            == [lines[4]]
        )
        assert logs.list_last_logs(tx, job_id, 2) == lines[3:]
        assert logs.latest_ids(tx) == (lines[-1].log_id, 0)


def test_tail_of_many_jobs_is_one_query_in_order(store: Store) -> None:
    with store.write() as tx:
        first, second, unwatched = (rows.add_job(tx).job_id for _ in range(3))
        for n, job_id in enumerate((first, unwatched, second, first), start=1):
            logs.append_logs(tx, job_id, job_id, 1, rows.make_lines(n, n))
            metrics.append_metrics(tx, job_id, job_id, 1, rows.make_metrics(n, n))
        watched = {first, second}
        lines = logs.list_logs_of(tx, watched, 0, 10)
        figures = metrics.list_metrics_of(tx, watched, 0, 10)
        assert [(line.job_id, line.seq) for line in lines] == [(first, 1), (second, 3), (first, 4)]
        assert [(figure.job_id, figure.seq) for figure in figures] == [(first, 1), (second, 3), (first, 4)]
        assert logs.list_logs_of(tx, watched, lines[1].log_id, 10) == lines[2:]
        assert metrics.list_metrics_of(tx, watched, figures[0].metric_id, 1) == figures[1:2]
        assert logs.list_logs_of(tx, [], 0, 10) == []


def test_lines_become_visible_in_the_order_of_their_ids(store: Store) -> None:
    """A reader that remembers only the newest id must not miss a line of a slower writer."""
    with store.write() as tx:
        job_ids = [rows.add_job(tx).job_id for _ in range(4)]
    done = threading.Event()
    seen: list[int] = []

    def write(job_id: str) -> None:
        for n in range(1, 16):
            with store.write() as tx:
                logs.append_logs(tx, job_id, job_id, 1, rows.make_lines(3 * n - 2, 3 * n))

    def follow() -> None:
        finished = False
        while not finished:
            finished = done.is_set()
            with store.read() as tx:
                new = logs.list_logs_of(tx, job_ids, seen[-1] if seen else 0, 1000)
            seen.extend(line.log_id for line in new)

    reader = threading.Thread(target=follow)
    reader.start()
    results = run_together([lambda j=j: write(j) for j in job_ids])
    done.set()
    reader.join()
    assert results == [None] * 4
    with store.read() as tx:
        stored = [line.log_id for line in logs.list_logs_of(tx, job_ids, 0, 1000)]
    assert len(stored) == 4 * 45
    assert seen == stored


def test_strange_reports_are_stored_without_harm(store: Store) -> None:
    with store.write() as tx:
        job_id = rows.add_job(tx).job_id
        now = tx.now()
        line = Entry(seq=1, at_unix=1e300, report=LogLine(stream="stdout", text="nul \x00 and \udcff"))
        figure = Entry(seq=2, at_unix=float("nan"), report=Metric(step=1, values={"loss": float("nan"), "lr": 0.5}))
        logs.append_logs(tx, job_id, "attempt-1", 1, [line, figure])
        metrics.append_metrics(tx, job_id, "attempt-1", 1, [line, figure])
    with store.read() as tx:
        (stored,) = logs.list_logs(tx, job_id)
        (kept,) = metrics.list_metrics(tx, job_id)
    assert (stored.text, stored.at) == ("nul \ufffd and \ufffd", now)
    assert (kept.values, kept.at) == ({"lr": 0.5}, now)


def test_checkpoint_of_a_step_is_stored_once(store: Store) -> None:
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
        first = checkpoints.insert_checkpoint(tx, rows.make_checkpoint(attempt, step=5, created_at=tx.now()))
        again = checkpoints.insert_checkpoint(tx, rows.make_checkpoint(attempt, step=5, created_at=tx.now() + LATER))
        later = checkpoints.insert_checkpoint(tx, rows.make_checkpoint(attempt, step=9, created_at=tx.now() + LATER))
        assert (first, checkpoints.find_latest(tx, attempt.job_id)) == (again, later)
        assert checkpoints.list_checkpoints(tx, attempt.job_id).items == (later, first)
        page = checkpoints.list_checkpoints(tx, attempt.job_id, limit=1, after=later.checkpoint_id)
        assert (page.items, page.has_more) == ((first,), False)
        checkpoints.delete_checkpoint(tx, later.checkpoint_id)
        assert checkpoints.find_latest(tx, attempt.job_id) == first
        assert checkpoints.find_latest(tx, "ftjob-none") is None


def test_sweeping_forgets_only_the_output_of_ended_jobs_that_hold_nothing(store: Store) -> None:
    with store.write() as tx:
        held, ended, going_on = rows.add_running_attempt(tx).job_id, rows.add_job(tx).job_id, rows.add_job(tx).job_id
        for job_id in (held, ended, going_on):
            logs.append_logs(tx, job_id, job_id, 1, rows.make_lines(1, 5))
            metrics.append_metrics(tx, job_id, job_id, 1, rows.make_metrics(6, 7))
        for job_id in (held, ended):
            jobs.apply_job_transition(tx, job_id, JobState.CANCELLED, message="Cancelled.")
        assert sweeps.list_to_sweep(tx, stage=1, finished_before=tx.now(), limit=10) == []
        assert sweeps.list_to_sweep(tx, stage=1, finished_before=tx.now() + LATER, limit=10) == [ended]
        assert [sweeps.delete_output(tx, ended, 3) for _ in range(3)] == [5, 2, 0]
        sweeps.record_sweep(tx, ended, 2)
        sweeps.record_sweep(tx, ended, 1)
        assert sweeps.list_to_sweep(tx, stage=2, finished_before=tx.now() + LATER, limit=10) == []
        assert logs.list_logs(tx, ended) == []
        assert len(logs.list_logs(tx, going_on)) == 5
        assert events.get_last_seq(tx, ended) == 2
        assert events.get_last_seq(tx, going_on) == 1


def test_logs_are_read_backwards_and_searched_by_what_they_say(store: Store) -> None:
    texts = ["alpha", "100% done", "100 steps done", "ALPHA again"]
    with store.write() as tx:
        attempt = rows.add_running_attempt(tx)
        entries = [
            Entry(seq=seq, at_unix=1.0, report=LogLine(stream="stdout", text=text)) for seq, text in enumerate(texts, 1)
        ]
        logs.append_logs(tx, attempt.job_id, attempt.attempt_id, 1, entries)
        newest = logs.list_logs(tx, attempt.job_id, limit=2, which=LineQuery(descending=True))
        older = logs.list_logs(tx, attempt.job_id, after_id=newest[-1].log_id, which=LineQuery(descending=True))
        assert [line.text for line in newest + older] == texts[::-1]

        def search(text: str) -> list[str]:
            return [line.text for line in logs.list_logs(tx, attempt.job_id, which=LineQuery(text=text))]

        assert search("Alpha") == ["alpha", "ALPHA again"]
        assert search("100%") == ["100% done"]
        assert search("_") == []
