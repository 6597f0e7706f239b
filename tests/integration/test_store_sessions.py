"""Transactions on both engines: what commits, who may write, whose clock, and which errors callers see."""

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.domain.errors import ConflictError, InvalidRequestError, NotFoundError, StoreUnavailableError
from orchestrator.store import engines, events, files, leader, teams, writers
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store
from tests.support import rows
from tests.support.postgres import PostgresServer
from tests.support.threads import has_waiting_writer, run_together, wait_until


def count_teams(store: Store) -> int:
    with store.read() as tx:
        return len(teams.list_teams(tx))


def test_write_is_all_or_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as tx:
            teams.insert_team(tx, name="lost")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count_teams(store) == 0
    with store.write() as tx:
        teams.insert_team(tx, name="kept")
    assert count_teams(store) == 1


def test_uncommitted_rows_are_seen_by_nobody(store: Store) -> None:
    with store.write() as tx:
        teams.insert_team(tx, name="hidden")
        assert count_teams(store) == 0
    assert count_teams(store) == 1


def test_reader_cannot_write(store: Store) -> None:
    with pytest.raises(StoreUnavailableError), store.read() as tx:
        tx.rows(
            text("INSERT INTO teams VALUES ('t', 'name', :at) RETURNING name"),
            {"at": tx.now() if tx.is_postgres else 0},
        )
    with store.write() as tx:
        teams.insert_team(tx, name="writers still may")
    assert count_teams(store) == 1


def test_clock_stands_still_within_a_transaction_and_never_goes_back(store: Store) -> None:
    seen = []
    for _ in range(5):
        with store.write() as tx:
            assert tx.now() == tx.now()
            assert tx.now().tzinfo is UTC
            seen.append(tx.now())
    with store.read() as tx:
        seen.append(tx.now())
    assert seen == sorted(seen)
    assert abs(seen[-1] - datetime.now(UTC)) < timedelta(minutes=1)


def test_sqlite_clock_that_is_set_back_stands_still(sqlite_store: Store) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    with sqlite_store.write() as tx:
        tx.execute(text("UPDATE clock SET latest_at = :at"), {"at": int(ahead.timestamp() * 1_000_000)})
    moments = []
    for _ in range(3):
        with sqlite_store.write() as tx:
            moments.append(tx.now())
    with sqlite_store.read() as tx:
        moments.append(tx.now())
    assert moments == sorted(moments)
    assert timedelta() < moments[0] - ahead + timedelta(microseconds=1) < timedelta(seconds=1)
    assert len(set(moments[:3])) == 3


def test_broken_constraint_is_a_conflict_and_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as tx:
            teams.insert_team(tx, name="lost")
            rows.add_key(tx, "team-that-is-not-there")

    with pytest.raises(ConflictError):
        fail()
    assert count_teams(store) == 0


def test_expected_conflict_leaves_the_transaction_usable(store: Store) -> None:
    with store.write() as tx:
        teams.insert_team(tx, name="one")
        with pytest.raises(ConflictError) as caught:
            teams.insert_team(tx, name="one")
        teams.insert_team(tx, name="two")
    assert caught.value.code == "name_taken"
    assert count_teams(store) == 2


@pytest.mark.parametrize("name", ["nul\x00inside", "lone \ud800 surrogate", "emoji \U0001f600 ok"])
def test_any_python_text_can_be_stored_and_looked_up(store: Store, name: str) -> None:
    with store.write() as tx:
        stored = teams.insert_team(tx, name=name)
        assert teams.find_team_by_name(tx, name) == stored
        job = rows.add_job(tx, stored.team_id, metadata={"note": name})
        assert list_jobs(tx, JobFilter(metadata={"note": name})).items == (job,)
        event = events.append_event(tx, job.job_id, message=name, data={"text": name, "nan": float("nan")})
    with store.read() as tx:
        assert teams.get_team(tx, stored.team_id).name == name.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
        found, _ = events.list_events(tx, job.job_id).items
        assert found.data == {"text": name, "nan": None}
        assert found.event_id == event.event_id
        with pytest.raises(NotFoundError):
            files.get_file(tx, name, None)


def test_number_out_of_range_is_the_callers_mistake(postgres_store: Store) -> None:
    with pytest.raises(InvalidRequestError), postgres_store.read() as tx:
        tx.scalar(text("SELECT cast(:n AS bigint)"), {"n": 2**70})


def test_database_that_is_not_there_is_unavailable(tmp_path, postgres_server: PostgresServer) -> None:
    folder = tmp_path / "folder.db"
    folder.mkdir()
    for url in (f"sqlite:///{folder}", postgres_server.url("no_such_database")):
        gone = Store(url)
        with pytest.raises(StoreUnavailableError):
            gone.ping()
        with pytest.raises(StoreUnavailableError), gone.write():
            pass
        gone.close()


def test_lost_postgres_connections_are_replaced(postgres_store: Store) -> None:
    postgres_store.ping()

    def fail() -> None:
        with postgres_store.write() as tx:
            teams.insert_team(tx, name="lost")
            tx.scalar(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailableError):
        fail()
    with postgres_store.write() as tx:
        teams.insert_team(tx, name="kept")
    assert count_teams(postgres_store) == 1


def test_unsupported_engine_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        Store("mysql://localhost/tunepool")


def test_every_one_of_many_writers_is_stored(store: Store) -> None:
    def write(number: int) -> None:
        for repeat in range(5):
            with store.write() as tx:
                teams.insert_team(tx, name=f"{number}-{repeat}")

    results = run_together([lambda n=n: write(n) for n in range(16)])
    assert results == [None] * 16
    assert count_teams(store) == 80


def test_failed_writers_do_not_hurt_those_that_share_their_commit(sqlite_store: Store) -> None:
    def write(number: int) -> None:
        with sqlite_store.write() as tx:
            teams.insert_team(tx, name=f"team {number}")
            if number % 2:
                raise ZeroDivisionError

    results = run_together([lambda n=n: write(n) for n in range(20)])
    assert [type(result) for result in results] == [type(None), ZeroDivisionError] * 10
    with sqlite_store.read() as tx:
        assert {team.name for team in teams.list_teams(tx)} == {f"team {n}" for n in range(0, 20, 2)}


def test_waiting_writers_share_one_commit_and_all_of_them_learn_of_its_failure(sqlite_store: Store) -> None:
    """The first writer holds its transaction open until the others wait; the last one makes SQLite roll back."""
    inside, outcomes = threading.Event(), []

    def first() -> None:
        with sqlite_store.write() as tx:
            teams.insert_team(tx, name="first")
            inside.set()
            wait_until(lambda: has_waiting_writer(sqlite_store))

    def second() -> None:
        inside.wait()
        with sqlite_store.write() as tx:
            outcomes.append([team.name for team in teams.list_teams(tx)])
            tx.execute(text("ROLLBACK"))

    results = run_together([first, second])
    assert outcomes == [["first"]]
    assert [isinstance(result, StoreUnavailableError) for result in results] == [True, True]
    assert count_teams(sqlite_store) == 0
    with sqlite_store.write() as tx:
        teams.insert_team(tx, name="afterwards")
    assert count_teams(sqlite_store) == 1


def test_error_that_rests_on_anothers_row_is_told_only_when_that_row_is_durable(sqlite_store: Store) -> None:
    """The second is refused because of the first's name; then the third makes the commit of all of them fail."""
    waiting = sqlite_store._group._threads._waiting
    inside, second_waits = threading.Event(), threading.Event()

    def first() -> None:
        with sqlite_store.write() as tx:
            teams.insert_team(tx, name="taken")
            inside.set()
            wait_until(lambda: len(waiting) == 1)
            second_waits.set()
            wait_until(lambda: len(waiting) == 2)

    def second() -> None:
        inside.wait()
        with sqlite_store.write() as tx:
            teams.insert_team(tx, name="taken")

    def third() -> None:
        second_waits.wait()
        with sqlite_store.write() as tx:
            tx.execute(text("ROLLBACK"))

    results = run_together([first, second, third])
    assert [type(result) for result in results] == [StoreUnavailableError] * 3
    assert isinstance(results[1].__context__, ConflictError)
    assert count_teams(sqlite_store) == 0


def test_writers_of_two_stores_on_one_file_take_turns(sqlite_url: str) -> None:
    """Two stores stand for two processes: file locks belong to the open file, not to the process."""
    stores = [Store(sqlite_url), Store(sqlite_url)]

    def write(store: Store, number: int) -> None:
        for repeat in range(10):
            with store.write() as tx:
                teams.insert_team(tx, name=f"{number}-{repeat}")

    results = run_together([lambda n=n: write(stores[n % 2], n) for n in range(8)])
    assert results == [None] * 8
    assert count_teams(stores[0]) == 80
    for store in stores:
        store.close()


def test_writer_gives_up_when_its_turn_does_not_come(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "LONGEST_WAIT_SECONDS", 0.05)
    first, second = Store(sqlite_url), Store(sqlite_url)
    with first.write() as tx:
        teams.insert_team(tx, name="first")
        with pytest.raises(StoreUnavailableError), second.write():
            pass
        (result,) = run_together([lambda: first.write().__enter__()])
        assert isinstance(result, StoreUnavailableError)
    with second.write() as tx:
        teams.insert_team(tx, name="second")
    assert count_teams(first) == 2
    first.close()
    second.close()


def test_sqlite_is_durable_and_checked(sqlite_store: Store) -> None:
    with sqlite_store.write() as tx:
        assert tx.scalar(text("PRAGMA journal_mode")) == "wal"
        assert tx.scalar(text("PRAGMA synchronous")) == 2
        assert tx.scalar(text("PRAGMA foreign_keys")) == 1
        assert tx.scalar(text("PRAGMA busy_timeout")) == engines.BUSY_SECONDS * 1000
    with sqlite_store.read() as tx:
        assert tx.scalar(text("PRAGMA query_only")) == 1
        assert tx.scalar(text("PRAGMA foreign_keys")) == 1


def test_postgres_limits_are_set(postgres_store: Store) -> None:
    with postgres_store.write() as tx:
        shown = [tx.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout")]
        assert shown == ["30s", "5s"]
        assert tx.scalar(text("SHOW idle_in_transaction_session_timeout")) == "10s"
        assert tx.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_other_programs_may_read_the_sqlite_file_while_it_is_written(sqlite_store: Store, tmp_path) -> None:
    with sqlite_store.write() as tx:
        teams.insert_team(tx, name="seen")
        other = sqlite3.connect(tmp_path / "tunepool.db")
        assert other.execute("SELECT count(*) FROM teams").fetchone() == (0,)
        other.close()


def test_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Two that switch it to WAL at the same time would wait for each other: SQLite tells one 'locked' at once, whatever
    its busy timeout."""
    for turn in range(15):
        stores = [Store(f"sqlite:///{tmp_path}/{turn}.db") for _ in range(6)]
        results = run_together([store.ping for store in stores])
        for store in stores:
            store.close()
        assert results == [None] * len(stores)


def test_a_frozen_leaders_transaction_does_not_keep_the_next_leader_out(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still with the scheduler's lock in its hands; PostgreSQL ends it, well before others stop waiting."""
    monkeypatch.setattr(engines, "IDLE_SECONDS", 1)
    frozen, other = Store(postgres_url), Store(postgres_url)

    def freeze_while_another_takes_over() -> None:
        with frozen.write() as tx:
            tx.lock_scheduler()
            with other.write() as later:
                later.lock_scheduler()
                assert leader.claim_leadership(later, owner="other", lease_seconds=5)

    with pytest.raises(StoreUnavailableError):
        freeze_while_another_takes_over()
    with other.read() as reader:
        found = leader.find_leader(reader)
    assert found is not None
    assert found.owner == "other"
    frozen.close()
    other.close()
