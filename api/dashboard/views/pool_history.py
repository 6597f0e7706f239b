"""The last day of each device: holds as blocks, time along and bytes up, in the colour of the team that had them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from api.dashboard.formats import say_bytes, say_duration
from api.dashboard.views.bars import SMALLEST, WIDTH, scale
from api.dashboard.views.devices import LOOKS, DeviceBar
from api.schemas.pool import HoldOut, PoolHistoryOut

HEIGHT = 100
MOST_BLOCKS = 1500
"""Drawn on one page, the latest ones."""
MOST_ROWS = 100
"""Of the table that says the same, the latest ones."""
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Stretch:
    look: str
    x: float
    width: float
    y: float
    height: float
    title: str


@dataclass(frozen=True, kw_only=True)
class DeviceHistory:
    """`used_percent` is of the device's bytes times the time."""

    device_id: str
    device_type: str
    stretches: tuple[Stretch, ...]
    used_percent: float


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A team, with the hours of whole devices that it held; None for teams that the caller does not see."""

    name: str | None
    look: str
    device_hours: float


@dataclass(frozen=True, kw_only=True)
class History:
    since: int
    until: int
    devices: tuple[DeviceHistory, ...]
    runners: tuple[Runner, ...]
    rows: tuple[HoldOut, ...]
    total: int
    drawn: int


def show_history(found: PoolHistoryOut, bars: Sequence[DeviceBar]) -> History:
    sizes = {bar.device.id: bar.device.usable_bytes for bar in bars}
    runners = _rank_runners(found, sizes)
    looks = {runner.name: runner.look for runner in runners}
    drawn = found.data[-MOST_BLOCKS:]
    by_device: dict[str, list[HoldOut]] = {bar.device.id: [] for bar in bars if bar.device.online}
    by_device |= _group(found.data)
    blocks = _group(drawn)
    types = {bar.device.id: bar.device.device_type for bar in bars}
    return History(
        since=found.since,
        until=found.until,
        devices=tuple(
            DeviceHistory(
                device_id=device_id,
                device_type=types.get(device_id) or holds[0].device_type,
                stretches=tuple(_stack(blocks.get(device_id, ()), found, looks, sizes.get(device_id, 0))),
                used_percent=_used_percent(holds, found, sizes.get(device_id, 0)),
            )
            for device_id, holds in sorted(by_device.items())
        ),
        runners=tuple(runners),
        rows=tuple(reversed(found.data[-MOST_ROWS:])),
        total=len(found.data),
        drawn=len(drawn),
    )


def _group(holds: Sequence[HoldOut]) -> dict[str, list[HoldOut]]:
    """By device."""
    groups: dict[str, list[HoldOut]] = {}
    for hold in holds:
        groups.setdefault(hold.device_id, []).append(hold)
    return groups


def _rank_runners(found: PoolHistoryOut, sizes: dict[str, int]) -> list[Runner]:
    """The teams that held the most first; those that the caller does not see together, and last."""
    hours: dict[str | None, float] = {}
    for hold in found.data:
        share = hold.reserved_bytes / max(sizes.get(hold.device_id, hold.reserved_bytes), 1)
        hours[hold.team] = hours.get(hold.team, 0.0) + share * _seconds(hold, found) / SECONDS_PER_HOUR
    ranked = sorted(hours.items(), key=lambda item: (item[0] is None, -item[1]))
    return [
        Runner(name=name, look="other" if name is None else f"hue-{number % LOOKS}", device_hours=spent)
        for number, (name, spent) in enumerate(ranked)
    ]


def _seconds(hold: HoldOut, found: PoolHistoryOut) -> int:
    """How long it lasted within the period."""
    return max(0, min(hold.until or found.until, found.until) - max(hold.since, found.since))


def _used_percent(holds: Sequence[HoldOut], found: PoolHistoryOut, size: int) -> float:
    whole = size * max(found.until - found.since, 1)
    return 100 * sum(hold.reserved_bytes * _seconds(hold, found) for hold in holds) / whole if whole else 0.0


def _stack(holds: Sequence[HoldOut], found: PoolHistoryOut, looks: dict[str | None, str], size: int) -> list[Stretch]:
    """Each block lies as low as there is room beside those that lasted at the same time."""
    size = size or sum(hold.reserved_bytes for hold in holds)
    span = max(found.until - found.since, 1)
    lasting: list[tuple[int, int, int]] = []  # (bottom, top, until), in bytes and Unix seconds
    stretches = []
    for hold in holds:
        until = hold.until or found.until
        lasting = sorted(entry for entry in lasting if entry[2] > hold.since)
        bottom = _find_gap(lasting, hold.reserved_bytes)
        lasting.append((bottom, bottom + hold.reserved_bytes, until))
        x = min(scale(hold.since - found.since, span), WIDTH - SMALLEST)
        top = min((bottom + hold.reserved_bytes) / size, 1.0)
        height = HEIGHT * min(hold.reserved_bytes / size, 1.0)
        stretches.append(
            Stretch(
                look=looks[hold.team],
                x=x,
                width=round(max(scale(until - found.since, span) - x, SMALLEST), 2),
                y=round(HEIGHT - HEIGHT * top, 2),
                height=round(height, 2),
                title=_say(hold, until),
            )
        )
    return stretches


def _find_gap(lasting: Sequence[tuple[int, int, int]], size: int) -> int:
    """Where `size` bytes begin that none of these, sorted, has."""
    bottom = 0
    for low, high, _ in lasting:
        if low - bottom >= size:
            break
        bottom = max(bottom, high)
    return bottom


def _say(hold: HoldOut, until: int) -> str:
    who = f"{hold.team}, {hold.job_id}" if hold.job_id else "another team's job"
    clock = [datetime.fromtimestamp(at, UTC).strftime("%H:%M") for at in (hold.since, until)]
    ends = f"to {clock[1]}" if hold.until else "until now"
    lasted = say_duration(until - hold.since)
    return f"{who}: {say_bytes(hold.reserved_bytes)} from {clock[0]} {ends} UTC, {lasted}"
