"""Idle device time, against a count of moments one by one."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.idle import IDLE_DIMENSIONS, Held, Spell, sum_idle
from orchestrator.domain.usage_sums import Dimension, Period

BEGIN = datetime(2026, 10, 31, 12, tzinfo=UTC)
HOURS = 60
"""Of the time that is drawn from; whole hours, so that they can be counted."""
SHARES = 4
GROUPINGS = [found for size in range(4) for found in combinations(sorted(IDLE_DIMENSIONS), size)]


def at(hour: int) -> datetime:
    return BEGIN + timedelta(hours=hour)


@st.composite
def spells(draw: st.DrawFn, device_id: str) -> list[Spell]:
    """Of one device, none touching another."""
    cuts = sorted(draw(st.sets(st.integers(0, HOURS), max_size=8)))
    kind = st.sampled_from(["l4", "h100"])
    return [
        Spell(device_id=device_id, device_type=draw(kind), since_at=at(first), until_at=at(last))
        for first, last in zip(cuts[::2], cuts[1::2], strict=False)
    ]


@st.composite
def holds(draw: st.DrawFn, device_id: str) -> list[Held]:
    """At most as many at once as fit on a device: each has one of SHARES slots."""
    found = []
    for _ in range(SHARES):
        cuts = sorted(draw(st.sets(st.integers(-5, HOURS + 5), max_size=6)))
        for first, last in zip(cuts[::2], [*cuts[1::2], None][: len(cuts[::2])], strict=False):
            end = None if last is None else at(last)
            found.append(
                Held(device_id=device_id, since_at=at(first), until_at=end, reserved_bytes=1, device_bytes=SHARES)
            )
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data(), since=st.integers(0, HOURS) | st.none(), until=st.integers(0, HOURS) | st.none())
def test_it_is_what_was_offered_less_what_was_held(data: st.DataObject, since: int | None, until: int | None) -> None:
    devices = ["a/0", "a/1"]
    offered = [spell for device_id in devices for spell in data.draw(spells(device_id))]
    held = [hold for device_id in devices for hold in data.draw(holds(device_id))]
    period = Period(since=None if since is None else at(since), until=None if until is None else at(until))
    for dimensions in GROUPINGS:
        found = sum_idle(offered, held, period, dimensions)
        assert found == _counted(offered, held, period, dimensions)
        assert all(value >= 0 for value in found.values())


def _counted(
    offered: list[Spell], held: list[Held], period: Period, dimensions: tuple[Dimension, ...]
) -> dict[tuple[str, ...], Fraction]:
    quarters: Counter[tuple[str, ...]] = Counter()
    for hour in range(HOURS):
        moment = at(hour)
        if (period.since and moment < period.since) or (period.until and moment >= period.until):
            continue
        for spell in offered:
            if spell.since_at <= moment < spell.until_at:
                has = sum(
                    hold.device_id == spell.device_id
                    and hold.since_at <= moment
                    and (hold.until_at is None or moment < hold.until_at)
                    for hold in held
                )
                values = {"device": spell.device_id, "device_type": spell.device_type, "day": f"{moment:%Y-%m-%d}"}
                quarters[tuple(values[dimension.value] for dimension in dimensions)] += SHARES - has
    return {key: Fraction(count * 3_600_000_000, SHARES) for key, count in sorted(quarters.items())}
