"""Money: integer micro-dollars, rounded once per ledger entry.

An entry covers one interval of one attempt on one of its devices. Its amount is

    price x microseconds x reserved_bytes / (3.6e9 x device_bytes),   rounded half up,

with the price in micro-dollars per device-hour, frozen when the attempt starts. Integers throughout: no float ever
touches money.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What an attempt's device costs: the whole device's price and the share of it that is reserved."""

    price_usd_micros_per_hour: int
    reserved_bytes: int
    device_bytes: int

    def amount_usd_micros(self, interval: timedelta) -> int:
        """The price of an interval, in micro-dollars, rounded half up. Negative intervals cost nothing."""
        microseconds = max(0, interval // timedelta(microseconds=1))
        numerator = self.price_usd_micros_per_hour * microseconds * self.reserved_bytes
        denominator = MICROSECONDS_PER_HOUR * self.device_bytes
        return (2 * numerator + denominator) // (2 * denominator)

    def seconds_within(self, amount_usd_micros: int) -> int | None:
        """The largest whole number of seconds whose price is at most the amount; None when it costs nothing."""
        per_hour = self.price_usd_micros_per_hour * self.reserved_bytes
        if per_hour == 0:
            return None
        return max(0, amount_usd_micros * 3600 * self.device_bytes // per_hour)


@dataclass(frozen=True)
class GangRate:
    """What several devices cost together: each has a ledger entry of its own, rounded by itself."""

    rates: tuple[Rate, ...]

    def amount_usd_micros(self, interval: timedelta) -> int:
        return sum(rate.amount_usd_micros(interval) for rate in self.rates)

    def seconds_within(self, amount_usd_micros: int) -> int | None:
        """As a `Rate`'s; of several devices a little less than the largest, because rounding may add half a
        micro-dollar for each."""
        if len(self.rates) == 1:
            return self.rates[0].seconds_within(amount_usd_micros)
        per_hour = sum(
            (Fraction(rate.price_usd_micros_per_hour * rate.reserved_bytes, rate.device_bytes) for rate in self.rates),
            Fraction(),
        )
        if per_hour == 0:
            return None
        return max(0, int((amount_usd_micros - Fraction(len(self.rates), 2)) * 3600 / per_hour))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A part of an attempt that one ledger entry covers. `lost` time is work that no checkpoint kept."""

    started_at: datetime
    ended_at: datetime
    lost: bool

    @property
    def seconds(self) -> float:
        return (self.ended_at - self.started_at).total_seconds()


def split_attempt(
    started_at: datetime, ended_at: datetime, *, kept_until: datetime | None, platform_fault: bool
) -> tuple[Interval, ...]:
    """Cut an attempt's billed time where the work that survives ends.

    When the platform is to blame, time after the last kept checkpoint (`kept_until`) is lost; it is written to the
    ledger against the pool and not against the team. Otherwise the whole time is one interval of the team's.
    """
    ended_at = max(started_at, ended_at)
    if not platform_fault:
        return (Interval(started_at=started_at, ended_at=ended_at, lost=False),)
    cut = min(max(kept_until or started_at, started_at), ended_at)
    parts = (
        Interval(started_at=started_at, ended_at=cut, lost=False),
        Interval(started_at=cut, ended_at=ended_at, lost=True),
    )
    return tuple(part for part in parts if part.ended_at > part.started_at)
