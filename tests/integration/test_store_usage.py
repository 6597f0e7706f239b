"""Usage on both engines: whatever is grouped by, the sums are the ledger's, to the micro-dollar and the microsecond."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from orchestrator.domain.attempts import Attempt, LedgerEntry
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.pricing import Rate
from orchestrator.domain.states import AttemptState
from orchestrator.domain.usage_sums import Dimension, Period, Usage, Use, sum_up
from orchestrator.store import ledger, usage
from orchestrator.store.session import ReadTx, Store, WriteTx
from orchestrator.store.tables.attempts import attempts as attempt_rows
from tests.support.rows import add_queued_job, add_running_attempt, add_team

START = datetime(2026, 10, 31, 23, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ENDS: tuple[tuple[Use, Use, dict[str, Any]], ...] = (
    (Use.USEFUL, Use.FAILED, {"state": AttemptState.LOST, "failure_kind": FailureKind.LOST}),
    (Use.USEFUL, Use.PREEMPTED, {"state": AttemptState.INTERRUPTED, "preempt_rule": "reclaim"}),
    (Use.USEFUL, Use.FAILED, {"state": AttemptState.LOST, "failure_kind": FailureKind.LOST, "preempt_rule": "class"}),
    (Use.FAILED, Use.FAILED, {"state": AttemptState.FAILED, "failure_kind": FailureKind.DIVERGED}),
    (Use.USEFUL, Use.FAILED, {"state": AttemptState.FAILED, "failure_kind": FailureKind.OUT_OF_MEMORY}),
    (Use.USEFUL, Use.FAILED, {"state": AttemptState.INTERRUPTED, "failure_kind": FailureKind.BUDGET}),
    (Use.USEFUL, Use.FAILED, {"state": AttemptState.CANCELLED}),
)
"""What time that is billed and time that is not were used for, by how the attempt ended."""


@dataclass(frozen=True)
class World:
    store: Store
    attempts: tuple[Attempt, ...]
    uses: tuple[tuple[Use, Use], ...]


class _Undo(Exception):
    pass


@pytest.fixture
def world(store: Store) -> World:
    made = []
    with store.write() as tx:
        teams = [add_team(tx), add_team(tx)]
        for number, (_, _, end) in enumerate(ENDS):
            job = add_queued_job(tx, teams[number % 2].team_id, model=f"model-{number % 3}")
            attempt = add_running_attempt(tx, job)
            values = {**end, "ended_at": tx.now(), "released_at": tx.now()}
            tx.execute(update(attempt_rows).where(attempt_rows.c.attempt_id == attempt.attempt_id).values(values))
            made.append(attempt)
    return World(store, tuple(made), tuple((billed, lost) for billed, lost, _ in ENDS))


@dataclass(frozen=True)
class Part:
    """One entry to be: of which attempt, when, how long, what share, at which price, billed or not."""

    attempt: int
    begins: int
    lasts: int
    reserved: int
    device: int
    price: int
    billed: bool


@st.composite
def parts(draw: st.DrawFn) -> Part:
    device = draw(st.integers(1, 2**38))
    return Part(
        attempt=draw(st.integers(0, len(ENDS) - 1)),
        begins=draw(st.integers(0, 3 * 86_400_000_000)),
        lasts=draw(st.integers(0, 10**12)),
        reserved=draw(st.integers(1, device)),
        device=device,
        price=draw(st.integers(0, 10**9)),
        billed=draw(st.booleans()),
    )


def write(tx: WriteTx, world: World, drawn: Sequence[Part]) -> list[tuple[LedgerEntry, Use]]:
    written = []
    for number, part in enumerate(drawn, start=1):
        attempt = world.attempts[part.attempt]
        rate = Rate(price_usd_micros_per_hour=part.price, reserved_bytes=part.reserved, device_bytes=part.device)
        begins = START + part.begins * MICROSECOND
        entry = LedgerEntry(
            attempt_id=attempt.attempt_id,
            interval=number,
            job_id=attempt.job_id,
            team_id=attempt.team_id,
            device_type=f"type-{part.attempt % 2}",
            started_at=begins,
            ended_at=begins + part.lasts * MICROSECOND,
            rate=rate,
            amount_usd_micros=rate.amount_usd_micros(part.lasts * MICROSECOND),
            billed=part.billed,
            created_at=tx.now(),
        )
        ledger.append_entry(tx, entry)
        written.append((entry, world.uses[part.attempt][0 if part.billed else 1]))
    return written


def expected(entries: Sequence[tuple[LedgerEntry, Use]]) -> Usage:
    total = Usage()
    for entry, use in entries:
        total.entries += 1
        total.billed_usd_micros += entry.amount_usd_micros if entry.billed else 0
        total.lost_usd_micros += 0 if entry.billed else entry.amount_usd_micros
        microseconds = (entry.ended_at - entry.started_at) // MICROSECOND
        total.device_microseconds[use] += Fraction(microseconds * entry.rate.reserved_bytes, entry.rate.device_bytes)
    return total


def groups_of(tx: ReadTx, dimensions: Sequence[Dimension], period: Period, team_id: str | None = None) -> Any:
    return sum_up(usage.list_slices(tx, team_id, period, dimensions, limit=10_000))


ALL = [found for size in range(len(Dimension) + 1) for found in combinations(Dimension, size)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(parts(), max_size=12), cut=st.integers(0, 3 * 86_400_000_000))
def test_every_grouping_sums_up_to_the_ledger(world: World, drawn: list[Part], cut: int) -> None:
    moment = START + cut * MICROSECOND

    def check(tx: WriteTx) -> None:
        entries = write(tx, world, drawn)
        whole = expected(entries)
        assert (whole.billed_usd_micros, whole.lost_usd_micros) == ledger.sum_for_team(tx, None)
        for dimensions in ALL:
            assert _add(groups_of(tx, dimensions, Period()).values()) == whole
        halves = [groups_of(tx, [Dimension.TEAM], period) for period in (Period(until=moment), Period(since=moment))]
        assert _add(found for half in halves for found in half.values()) == whole
        days = groups_of(tx, [Dimension.DAY], Period())
        for (day,), found in days.items():
            assert found == expected([each for each in entries if f"{each[0].started_at:%Y-%m-%d}" == day])
        for (team_id,), found in groups_of(tx, [Dimension.TEAM], Period()).items():
            assert found == expected([each for each in entries if each[0].team_id == team_id])
            assert _add(groups_of(tx, [Dimension.DAY], Period(), team_id).values()) == found

    undo(world.store, check)


def _add(found: Iterator[Usage] | Any) -> Usage:
    total = Usage()
    for each in found:
        total.billed_usd_micros += each.billed_usd_micros
        total.lost_usd_micros += each.lost_usd_micros
        total.entries += each.entries
        for use in Use:
            total.device_microseconds[use] += each.device_microseconds[use]
    return total


def undo(store: Store, check: Callable[[WriteTx], None]) -> None:
    """Write, check, and leave nothing behind."""
    with suppress(_Undo), store.write() as tx:
        check(tx)
        raise _Undo


def test_a_walk_in_pages_has_each_entry_that_was_there_once(world: World) -> None:
    drawn = [Part(number % 7, number, 1000, 1, 2, 3_600_000, billed=number % 2 == 0) for number in range(23)]
    with world.store.write() as tx:
        entries = write(tx, world, drawn)
        as_of = tx.now()
    with world.store.write() as tx:
        tx.execute(
            update(ledger.ledger_entries)
            .where(ledger.ledger_entries.c.interval == 23)
            .values(created_at=as_of + timedelta(seconds=1))
        )
    found: list[Any] = []
    after = None
    with world.store.read() as tx:
        while page := usage.list_lines(tx, None, Period(), as_of=as_of, after=after, limit=4):
            found += page
            after = (page[-1].entry.attempt_id, page[-1].entry.interval)
    assert len(found) == 22
    by_place = {(line.entry.attempt_id, line.entry.interval): line for line in found}
    for entry, use in entries[:22]:
        line = by_place[entry.attempt_id, entry.interval]
        assert (line.entry, line.use) == (entry, use)
        assert (line.created_by, line.model_name, line.attempt_number) == ("key-1", line.model_name, 1)
