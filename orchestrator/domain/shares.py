"""Who held how much of the pool, and when: holds of devices become averages over slots of time.

Amounts are millionths of a reference device ("micros"), as in teams' terms; slots follow one another without gaps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

SLOTS: tuple[tuple[int, timedelta], ...] = (
    (2, timedelta(minutes=15)),
    (10, timedelta(hours=1)),
    (31, timedelta(hours=6)),
)
"""(days, slot): up to so many days are told in slots of this length, so that no answer has more than 250 of them."""
_EPOCH_AT = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """One attempt's hold on a device: from its placement until its processes were proved gone; `until_at` is None while
    it lasts."""

    attempt_id: str
    job_id: str
    team_id: str
    device_id: str
    device_type: str
    node_name: str
    reserved_bytes: int
    peak_device_bytes: int
    rate_micros: int
    since_at: datetime
    until_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Slots from `since_at` to `until_at`; the last one may be shorter than the others."""

    since_at: datetime
    until_at: datetime
    slot: timedelta

    @property
    def starts(self) -> tuple[datetime, ...]:
        count = -(-(self.until_at - self.since_at) // self.slot)
        return tuple(self.since_at + number * self.slot for number in range(count))

    def clip(self, since_at: datetime) -> "Grid":
        """Only the slots that begin at a moment or later."""
        late = next((start for start in self.starts if start >= since_at), self.until_at)
        return Grid(since_at=late, until_at=self.until_at, slot=self.slot)


def make_grid(now: datetime, days: int) -> Grid:
    """The last `days` (1 to 31) in slots that begin on the hour or its quarters, UTC."""
    slot = next(length for most, length in SLOTS if days <= most)
    first = now - timedelta(days=days)
    return Grid(since_at=first - (first - _EPOCH_AT) % slot, until_at=now, slot=slot)


def sum_shares(holds: Iterable[Hold], grid: Grid) -> dict[str, list[float]]:
    """By team: the average that it held in each slot, in micros. A team that held nothing is absent."""
    starts = grid.starts
    sums: dict[str, list[float]] = {}
    for hold in holds:
        begin = max(hold.since_at, grid.since_at)
        end = min(hold.until_at or grid.until_at, grid.until_at)
        if end <= begin:
            continue
        held = sums.setdefault(hold.team_id, [0.0] * len(starts))
        for number in range((begin - grid.since_at) // grid.slot, len(starts)):
            slot_end = min(starts[number] + grid.slot, grid.until_at)
            part = min(end, slot_end) - max(begin, starts[number])
            if part <= timedelta(0):
                break
            held[number] += hold.rate_micros * (part / (slot_end - starts[number]))
    return sums


def trace_back(current: int, changes: Sequence[tuple[datetime, Mapping[str, int]]], grid: Grid) -> list[int]:
    """A figure at the end of each slot, from what it is now and how it was changed (`from` and `to`), newest first."""
    found: list[int] = []
    value, left = current, list(changes)
    for start in reversed(grid.starts):
        while left and left[0][0] >= start + grid.slot:
            value = left.pop(0)[1]["from"]
        found.append(value)
    return found[::-1]
