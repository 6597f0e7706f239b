"""Money: exact amounts, where an attempt's bill is cut, and how long a budget lasts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.pricing import GangRate, Interval, Rate, split_attempt

GIB = 2**30
START = datetime(2026, 11, 23, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("price", "reserved", "device", "interval", "amount"),
    [
        (2_400_000, 6, 24, HOUR, 600_000),
        (2_400_000, 24, 24, HOUR, 2_400_000),
        (1, 1, 1, HOUR, 1),
        (1, 1, 2, HOUR, 1),
        (1, 1, 2, HOUR - timedelta(microseconds=1), 0),
        (3, 1, 2, HOUR, 2),
        (0, 6, 24, HOUR, 0),
        (3_600_000, 1, 1, timedelta(microseconds=500), 1),
        (3_600_000, 1, 1, timedelta(microseconds=499), 0),
        (2_400_000, 6, 24, timedelta(0), 0),
        (2_400_000, 6, 24, -HOUR, 0),
        (10**12, 80, 80, timedelta(days=3650), 10**12 * 87_600),
    ],
)
def test_amounts_are_exact_and_halves_round_up(
    price: int, reserved: int, device: int, interval: timedelta, amount: int
) -> None:
    rate = Rate(price_usd_micros_per_hour=price, reserved_bytes=reserved * GIB, device_bytes=device * GIB)
    assert rate.amount_usd_micros(interval) == amount


def test_a_budget_lasts_whole_seconds() -> None:
    rate = Rate(price_usd_micros_per_hour=3_600_000, reserved_bytes=1, device_bytes=2)
    assert rate.seconds_within(0) == 0
    assert rate.seconds_within(499) == 0
    assert rate.seconds_within(500) == 1
    assert rate.seconds_within(1_000_000) == 2000
    assert rate.seconds_within(-5) == 0
    free = Rate(price_usd_micros_per_hour=0, reserved_bytes=1, device_bytes=2)
    assert free.seconds_within(0) is None


def test_what_the_team_caused_is_one_interval() -> None:
    (whole,) = split_attempt(at(0), at(60), kept_until=at(10), platform_fault=False)
    assert whole == Interval(started_at=at(0), ended_at=at(60), lost=False)


def test_what_the_platform_broke_is_lost_after_the_last_checkpoint() -> None:
    kept, lost = split_attempt(at(0), at(60), kept_until=at(10), platform_fault=True)
    assert kept == Interval(started_at=at(0), ended_at=at(10), lost=False)
    assert lost == Interval(started_at=at(10), ended_at=at(60), lost=True)


def test_without_a_checkpoint_all_of_it_is_lost() -> None:
    (lost,) = split_attempt(at(0), at(60), kept_until=None, platform_fault=True)
    assert lost == Interval(started_at=at(0), ended_at=at(60), lost=True)


@pytest.mark.parametrize("kept_until", [at(60), at(90)])
def test_with_a_checkpoint_at_the_end_nothing_is_lost(kept_until: datetime) -> None:
    (kept,) = split_attempt(at(0), at(60), kept_until=kept_until, platform_fault=True)
    assert kept == Interval(started_at=at(0), ended_at=at(60), lost=False)


def test_a_checkpoint_before_the_start_keeps_nothing_of_this_attempt() -> None:
    (lost,) = split_attempt(at(0), at(60), kept_until=at(-30), platform_fault=True)
    assert lost == Interval(started_at=at(0), ended_at=at(60), lost=True)


def test_an_end_before_the_start_bills_no_time() -> None:
    (nothing,) = split_attempt(at(0), at(-5), kept_until=None, platform_fault=False)
    assert nothing.ended_at - nothing.started_at == timedelta(0)
    assert split_attempt(at(0), at(-5), kept_until=None, platform_fault=True) == ()


def test_several_devices_cost_the_sum_of_what_each_is_billed() -> None:
    third = Rate(price_usd_micros_per_hour=1_000_000, reserved_bytes=1, device_bytes=3)
    half = Rate(price_usd_micros_per_hour=3_600_000, reserved_bytes=1, device_bytes=2)
    both = GangRate((third, half))
    second = timedelta(seconds=1)
    assert both.amount_usd_micros(second) == third.amount_usd_micros(second) + half.amount_usd_micros(second) == 593
    assert GangRate((half,)).seconds_within(1_000_000) == half.seconds_within(1_000_000)
    assert GangRate((replace(half, price_usd_micros_per_hour=0),) * 2).seconds_within(5) is None


@pytest.mark.parametrize("amount", [0, 1, 2, 100, 12_345, 1_000_000])
@pytest.mark.parametrize("devices", [1, 2, 3, 16])
def test_a_budget_is_never_overspent_by_several_devices(amount: int, devices: int) -> None:
    rate = GangRate((Rate(price_usd_micros_per_hour=1_000_000, reserved_bytes=5, device_bytes=7),) * devices)
    seconds = rate.seconds_within(amount)
    assert seconds is not None
    assert rate.amount_usd_micros(timedelta(seconds=seconds)) <= amount
    assert rate.amount_usd_micros(timedelta(seconds=seconds + 2)) > amount - devices
