"""Holds become averages over slots; a guarantee is traced back through its changes."""

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.shares import Grid, Hold, make_grid, sum_shares, trace_back

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
GRID = Grid(since_at=START, until_at=START + 3.5 * HOUR, slot=HOUR)


def hold(since: float, until: float | None, *, team: str = "a", micros: int = 1_000_000) -> Hold:
    return Hold(
        attempt_id="attempt-1",
        job_id="ftjob-1",
        team_id=team,
        device_id="node-a/cuda:0",
        device_type="gpu",
        node_name="node-a",
        reserved_bytes=1,
        peak_device_bytes=1,
        rate_micros=micros,
        since_at=START + since * HOUR,
        until_at=None if until is None else START + until * HOUR,
    )


def test_a_hold_counts_by_the_part_of_each_slot_that_it_lasted() -> None:
    shares = sum_shares([hold(0.5, 2.25)], GRID)
    assert shares == {"a": pytest.approx([500_000, 1_000_000, 250_000, 0])}


def test_what_lasts_counts_until_now_and_the_last_slot_is_as_long_as_it_was() -> None:
    assert sum_shares([hold(-5, None)], GRID)["a"] == pytest.approx([1_000_000] * 4)


def test_teams_are_apart_and_what_was_before_or_after_counts_nothing() -> None:
    holds = [hold(0, 1, micros=300_000), hold(0, 1, micros=200_000), hold(1, 2, team="b"), hold(-3, 0), hold(9, 10)]
    assert sum_shares(holds, GRID) == {"a": pytest.approx([500_000, 0, 0, 0]), "b": pytest.approx([0, 1_000_000, 0, 0])}


def test_a_guarantee_is_what_it_was_at_the_end_of_each_slot() -> None:
    changes = [(START + 2.5 * HOUR, {"from": 2, "to": 5}), (START + 1.25 * HOUR, {"from": 0, "to": 2})]
    assert trace_back(5, changes, GRID) == [0, 2, 5, 5]
    assert trace_back(5, [], GRID) == [5, 5, 5, 5]


@pytest.mark.parametrize("days", [1, 2, 7, 10, 31])
def test_a_grid_covers_the_days_in_few_slots_that_begin_on_the_clock(days: int) -> None:
    now = START + timedelta(hours=7, minutes=22)
    grid = make_grid(now, days)
    assert grid.starts[0] <= now - timedelta(days=days) < grid.starts[1]
    assert grid.starts[-1] < now <= grid.starts[-1] + grid.slot
    assert 90 <= len(grid.starts) <= 250
    assert all(start.timestamp() % grid.slot.total_seconds() == 0 for start in grid.starts)


def test_a_clipped_grid_has_whole_slots_only() -> None:
    assert GRID.clip(START + 0.5 * HOUR).starts == GRID.starts[1:]
    assert GRID.clip(START) == GRID
    assert GRID.clip(START + 9 * HOUR).starts == ()
