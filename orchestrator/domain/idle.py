"""Device time that was offered and that no attempt held, in sums: nobody's, but the pool's own.

A device is offered in its spells: while surveys saw it there and taking jobs. Of each moment of a spell, the share of
the device that no attempt had reserved is idle; an attempt holds its share until its processes are proved gone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from fractions import Fraction

from orchestrator.domain.usage_sums import Dimension, Period

IDLE_DIMENSIONS = frozenset({Dimension.DEVICE, Dimension.DEVICE_TYPE, Dimension.DAY})
"""What idle time can be told apart by: it has no team, no user and no model."""
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Spell:
    """A device was there and took jobs from `since_at` to `until_at`."""

    device_id: str
    device_type: str
    since_at: datetime
    until_at: datetime


@dataclass(frozen=True, kw_only=True)
class Held:
    """An attempt had `reserved_bytes` of a device's `device_bytes`; `until_at` is None while it still has."""

    device_id: str
    since_at: datetime
    until_at: datetime | None
    reserved_bytes: int
    device_bytes: int


def sum_idle(
    spells: Iterable[Spell], held: Iterable[Held], period: Period, dimensions: Sequence[Dimension]
) -> dict[tuple[str, ...], Fraction]:
    """Microseconds of whole devices, by group in the order of their values. Spells of one device do not overlap.

    Time is cut at the ends of the period and, for days, at midnight of UTC.
    """
    by_device: dict[str, list[Held]] = {}
    for hold in held:
        by_device.setdefault(hold.device_id, []).append(hold)
    whole: Counter[tuple[str, ...]] = Counter()
    shares: Counter[tuple[tuple[str, ...], int, int]] = Counter()
    for spell in spells:
        for since, until in _pieces(spell.since_at, spell.until_at, period, by_day=Dimension.DAY in dimensions):
            key = tuple(_value(dimension, spell, since) for dimension in dimensions)
            whole[key] += (until - since) // _MICROSECOND
            for hold in by_device.get(spell.device_id, ()):
                begin, end = max(since, hold.since_at), min(until, hold.until_at or until)
                if begin < end:
                    shares[key, hold.reserved_bytes, hold.device_bytes] += (end - begin) // _MICROSECOND
    idle = {key: Fraction(microseconds) for key, microseconds in whole.items()}
    for (key, reserved, device), microseconds in shares.items():
        idle[key] -= Fraction(microseconds * reserved, device)
    return {key: max(Fraction(), found) for key, found in sorted(idle.items())}


def _pieces(since: datetime, until: datetime, period: Period, *, by_day: bool) -> Iterator[tuple[datetime, datetime]]:
    since = since if period.since is None else max(since, period.since)
    until = until if period.until is None else min(until, period.until)
    while since < until:
        midnight = datetime.combine(since.astimezone(UTC).date(), time(), UTC) + _DAY
        end = min(until, midnight) if by_day else until
        yield since, end
        since = end


def _value(dimension: Dimension, spell: Spell, since: datetime) -> str:
    if dimension is Dimension.DAY:
        return since.astimezone(UTC).date().isoformat()
    return spell.device_id if dimension is Dimension.DEVICE else spell.device_type
