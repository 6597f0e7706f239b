"""What a job has cost over time, against what was predicted and what it may cost at most."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from api.dashboard.views.bars import WIDTH, scale
from api.schemas.activity import AttemptOut
from api.schemas.costs import CostEntry, JobCostOut

HEIGHT = 100
HEADROOM = 1.15
FAR = 4
"""A limit that is so many times above everything else is said beside the chart, which it would flatten."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A height that the cost is held against."""

    name: str
    look: str
    usd_micros: int
    y: float


@dataclass(frozen=True, kw_only=True)
class Burn:
    """Paths on an axis of WIDTH by HEIGHT, between two moments in Unix seconds."""

    begin: int
    end: int
    line: str
    area: str
    levels: tuple[Level, ...]
    beyond: Level | None


def draw_burn(
    bill: JobCostOut, attempts: list[AttemptOut], *, predicted: int | None, limit: int | None, now: int
) -> Burn | None:
    """None before anything has started. While a job runs its axis ends now."""
    points = list(_points(bill, attempts, now))
    if not points:
        return None
    begin, end = points[0][0], max(points[-1][0], points[0][0] + 1)
    highest = max(points[-1][1], predicted or 0, 1)
    is_far = limit is not None and limit > FAR * highest
    top = HEADROOM * max(highest, 0 if limit is None or is_far else limit)
    known = [("predicted", "predicted", predicted), ("limit", "limit", limit)]
    levels = [
        Level(name=name, look=look, usd_micros=micros, y=_y(micros, top))
        for name, look, micros in known
        if micros is not None
    ]
    line = "".join(
        f"{'L' if number else 'M'}{scale(at - begin, end - begin):g} {_y(micros, top):g}"
        for number, (at, micros) in enumerate(points)
    )
    return Burn(
        begin=begin,
        end=end,
        line=line,
        area=f"{line}V{HEIGHT}H0Z",
        levels=tuple(level for level in levels if level.look != "limit" or not is_far),
        beyond=levels[-1] if is_far else None,
    )


def _points(bill: JobCostOut, attempts: list[AttemptOut], now: int) -> Iterator[tuple[int, int]]:
    """(moment, micro-dollars so far): what is billed grows evenly while an attempt runs."""
    total = 0
    for (_, began, ended), entries in groupby(filter(lambda entry: entry.billed, bill.entries), _interval):
        yield began, total
        total += sum(entry.amount_usd_micros for entry in entries)
        yield ended, total
    running = next((attempt for attempt in attempts if attempt.started_at and attempt.ended_at is None), None)
    if running is not None and running.started_at is not None:
        yield running.started_at, total
        yield max(now, running.started_at), total + bill.running_usd_micros


def _interval(entry: CostEntry) -> tuple[int, int, int]:
    """The same for an attempt's entries of one time, of which there is one for each device; in a bill they are beside
    one another."""
    return entry.attempt, entry.started_at, entry.ended_at


def _y(micros: int, top: float) -> float:
    return round(HEIGHT - scale(micros, top) * HEIGHT / WIDTH, 2)
