"""Periods of budgets, and what is left of one."""

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.budgets import BudgetPeriod, BudgetState, find_period
from orchestrator.domain.usage import HALF_LIFE_SECONDS, accrue, decay

NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "first", "next_first"),
    [
        (BudgetPeriod.DAY, datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (BudgetPeriod.WEEK, datetime(2026, 12, 28, tzinfo=UTC), datetime(2027, 1, 4, tzinfo=UTC)),
        (BudgetPeriod.MONTH, datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_period_holds_its_first_moment_and_not_its_end(
    period: BudgetPeriod, first: datetime, next_first: datetime
) -> None:
    assert find_period(period, NOW) == find_period(period, first) == (first, next_first)
    assert find_period(period, next_first)[0] == next_first


def budget(total: int | None, *, billed: int = 0, held: int = 0) -> BudgetState:
    return BudgetState(
        budget_usd_micros=total,
        billed_usd_micros=billed,
        held_usd_micros=held,
        started_at=NOW,
        ends_at=NOW + timedelta(days=1),
    )


def test_what_is_held_is_not_left() -> None:
    assert budget(100, billed=30, held=50).left_usd_micros == 20
    assert budget(100, billed=90, held=50).left_usd_micros == 0
    assert budget(None, billed=90).left_usd_micros is None
    assert budget(200, billed=90, held=10).used_percent == 50
    assert budget(0).used_percent == 100
    assert budget(None).used_percent is None


def test_usage_is_forgotten_by_half_in_each_half_life() -> None:
    assert decay(8.0, 3 * HALF_LIFE_SECONDS) == pytest.approx(1.0)
    assert decay(8.0, -5.0) == 8.0
    assert accrue(2.0, 60.0) == pytest.approx(120.0, rel=1e-3)
    assert accrue(2.0, -1.0) == 0.0


def test_a_run_counts_the_same_whole_or_in_two_parts() -> None:
    whole = accrue(3.0, 50_000.0)
    parts = decay(accrue(3.0, 20_000.0), 30_000.0) + accrue(3.0, 30_000.0)
    assert parts == pytest.approx(whole)
