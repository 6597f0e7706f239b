"""Budgets and time limits: what is left, when the worker is asked to stop, and where billing ends."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.pricing import GangRate, Rate
from orchestrator.scheduler.limits import LONGEST_SECONDS, RunLimit, Spent, choose_run_limit, latest_billed_at

START = datetime(2026, 11, 1, tzinfo=UTC)
DOLLAR_AN_HOUR = GangRate((Rate(price_usd_micros_per_hour=1_000_000, reserved_bytes=1, device_bytes=1),))
NOTHING = Spent(billed_usd_micros=0, billed_seconds=0)


def _limit(**given_limits: int | None) -> RunLimit | None:
    limits = {"max_cost_usd_micros": None, "max_runtime_seconds": None, **given_limits}
    return choose_run_limit(rate=DOLLAR_AN_HOUR, spent=NOTHING, grace_seconds=60, **limits)


def test_without_a_limit_there_is_none() -> None:
    assert _limit() is None


def test_a_budget_keeps_a_reserve_for_saving() -> None:
    assert _limit(max_cost_usd_micros=1_000_000) == RunLimit(
        stop_seconds=3540, end_seconds=3600, reason="budget_exceeded"
    )
    assert _limit(max_cost_usd_micros=10_000) == RunLimit(stop_seconds=32, end_seconds=36, reason="budget_exceeded")


def test_a_time_limit_gives_the_grace_on_top() -> None:
    assert _limit(max_runtime_seconds=100) == RunLimit(stop_seconds=100, end_seconds=160, reason="timeout")


def test_the_nearer_limit_holds() -> None:
    nearer = _limit(max_runtime_seconds=100, max_cost_usd_micros=1_000_000)
    assert nearer is not None
    assert nearer.reason == "timeout"


def test_what_earlier_attempts_were_billed_is_gone_from_both_limits() -> None:
    spent = Spent(billed_usd_micros=500_000, billed_seconds=90.5)
    limit = choose_run_limit(
        rate=DOLLAR_AN_HOUR, spent=spent, max_cost_usd_micros=1_000_000, max_runtime_seconds=100, grace_seconds=10
    )
    assert limit == RunLimit(stop_seconds=9, end_seconds=19, reason="timeout")


def test_a_free_device_never_uses_up_a_budget() -> None:
    free = GangRate((Rate(price_usd_micros_per_hour=0, reserved_bytes=1, device_bytes=1),))
    assert (
        choose_run_limit(rate=free, spent=NOTHING, max_cost_usd_micros=1, max_runtime_seconds=None, grace_seconds=10)
        is None
    )


@given(
    price=st.integers(0, 50_000_000),
    share=st.integers(1, 1000),
    limit=st.integers(0, 100_000_000),
    billed=st.integers(0, 100_000_000),
    ran=st.integers(0, 10_000_000),
)
def test_no_bill_exceeds_its_limit(price: int, share: int, limit: int, billed: int, ran: int) -> None:
    billed = min(billed, limit)
    rate = GangRate((Rate(price_usd_micros_per_hour=price, reserved_bytes=share, device_bytes=1000),))
    ended_at = latest_billed_at(
        START + timedelta(seconds=ran),
        started_at=START,
        rate=rate,
        spent=Spent(billed_usd_micros=billed, billed_seconds=0),
        max_cost_usd_micros=limit,
    )
    assert START <= ended_at <= START + timedelta(seconds=ran)
    assert billed + rate.amount_usd_micros(ended_at - START) <= limit


@given(
    limit=st.integers(0, 100_000_000),
    grace=st.integers(1, 600),
    price=st.integers(1, 50_000_000),
)
def test_the_stop_comes_before_the_end_and_never_before_the_start(limit: int, grace: int, price: int) -> None:
    rate = GangRate((Rate(price_usd_micros_per_hour=price, reserved_bytes=1, device_bytes=1),))
    chosen = choose_run_limit(
        rate=rate, spent=NOTHING, max_cost_usd_micros=limit, max_runtime_seconds=None, grace_seconds=grace
    )
    if chosen is None:
        assert limit * 3600 > price * LONGEST_SECONDS
        return
    assert 0 <= chosen.stop_seconds <= chosen.end_seconds
    assert chosen.end_seconds - chosen.stop_seconds <= grace
    if chosen.end_seconds > 10:
        assert chosen.stop_seconds > 0


def test_without_a_budget_billing_ends_with_the_attempt() -> None:
    end = START + timedelta(seconds=5)
    unlimited = {"rate": DOLLAR_AN_HOUR, "spent": NOTHING, "max_cost_usd_micros": None}
    assert latest_billed_at(end, started_at=START, **unlimited) == end  # type: ignore[arg-type]


@pytest.mark.parametrize("launched", [True, False])
def test_an_attempt_that_was_never_launched_has_no_budget_to_end(launched: bool) -> None:
    end = START + timedelta(days=1)
    billed_at = latest_billed_at(
        end,
        started_at=START if launched else None,
        rate=DOLLAR_AN_HOUR,
        spent=NOTHING,
        max_cost_usd_micros=1_000_000,
    )
    assert billed_at == (START + timedelta(hours=1) if launched else end)
