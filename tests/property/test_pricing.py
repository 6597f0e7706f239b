"""Laws of money: exact to the micro-dollar against fractions, additive up to rounding, budgets never passed."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.pricing import Rate, split_attempt

START = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
YEAR_MICROSECONDS = 366 * 24 * 3_600_000_000
intervals = st.integers(0, YEAR_MICROSECONDS).map(lambda count: count * MICROSECOND)
moments = st.integers(-YEAR_MICROSECONDS, YEAR_MICROSECONDS).map(lambda count: START + count * MICROSECOND)


@st.composite
def rates(draw: st.DrawFn, *, least_price: int = 0) -> Rate:
    device = draw(st.integers(1, 2**40))
    return Rate(
        price_usd_micros_per_hour=draw(st.integers(least_price, 10**9)),
        reserved_bytes=draw(st.integers(1, device)),
        device_bytes=device,
    )


def exact(rate: Rate, interval: timedelta) -> Fraction:
    hours = Fraction(interval // MICROSECOND, 3_600_000_000)
    return rate.price_usd_micros_per_hour * hours * Fraction(rate.reserved_bytes, rate.device_bytes)


@given(rate=rates(), interval=intervals)
def test_an_amount_is_the_exact_price_rounded_half_up(rate: Rate, interval: timedelta) -> None:
    price = exact(rate, interval)
    amount = rate.amount_usd_micros(interval)
    assert Fraction(-1, 2) < price - amount < Fraction(1, 2) or amount - price == Fraction(1, 2)


@given(rate=rates(), first=intervals, second=intervals)
def test_amounts_grow_with_time_and_add_up_to_a_micro_dollar(rate: Rate, first: timedelta, second: timedelta) -> None:
    whole = rate.amount_usd_micros(first + second)
    parts = rate.amount_usd_micros(first) + rate.amount_usd_micros(second)
    assert abs(whole - parts) <= 1
    assert whole >= rate.amount_usd_micros(first)


@given(rate=rates(), interval=intervals)
def test_shares_of_a_device_never_cost_more_than_the_device(rate: Rate, interval: timedelta) -> None:
    whole = Rate(
        price_usd_micros_per_hour=rate.price_usd_micros_per_hour,
        reserved_bytes=rate.device_bytes,
        device_bytes=rate.device_bytes,
    )
    assert rate.amount_usd_micros(interval) <= whole.amount_usd_micros(interval)


@given(rate=rates(least_price=1), budget=st.integers(0, 10**13))
def test_a_budget_is_used_up_and_never_passed(rate: Rate, budget: int) -> None:
    seconds = rate.seconds_within(budget)
    assert seconds is not None
    spent = Fraction(rate.price_usd_micros_per_hour * rate.reserved_bytes, 3600 * rate.device_bytes)
    assert spent * seconds <= budget < spent * (seconds + 1)


@given(started=moments, ended=moments, kept_until=st.none() | moments, platform_fault=st.booleans(), rate=rates())
def test_a_split_covers_the_attempt_once_and_in_order(
    started: datetime, ended: datetime, kept_until: datetime | None, *, platform_fault: bool, rate: Rate
) -> None:
    parts = split_attempt(started, ended, kept_until=kept_until, platform_fault=platform_fault)
    length = max(timedelta(0), ended - started)
    assert sum((part.ended_at - part.started_at for part in parts), timedelta(0)) == length
    assert all(earlier.ended_at == later.started_at for earlier, later in pairwise(parts))
    if length:
        assert (parts[0].started_at, parts[-1].ended_at) == (started, ended)
    assert [part.lost for part in parts] == sorted(part.lost for part in parts)
    if not platform_fault:
        assert not any(part.lost for part in parts)
    billed = sum(rate.amount_usd_micros(part.ended_at - part.started_at) for part in parts)
    assert abs(billed - rate.amount_usd_micros(length)) <= 1
