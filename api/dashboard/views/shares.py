"""What teams held of the pool against what they were guaranteed, as steps over time on one scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from api.dashboard.views.bars import WIDTH
from api.schemas.teams import ShareOut, SharesOut

HEIGHT = 100
HEADROOM = 1.1
MOST_CHARTS = 20
"""Drawn on one page, those of the teams that held the most; a team's own page has its own."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A column that tells its figures to the mouse."""

    x: float
    width: float
    title: str


@dataclass(frozen=True, kw_only=True)
class ShareChart:
    """`area` and `guarantee` are paths on an axis of WIDTH by HEIGHT; figures are reference devices.
    `slots` only where they were asked for."""

    team_id: str
    name: str
    area: str
    guarantee: str
    slots: tuple[Slot, ...]
    average: float
    highest: float
    guaranteed: float


def draw_shares(found: SharesOut, *, with_slots: bool = False) -> list[ShareChart]:
    """All to the same scale, those who held the most first."""
    top = HEADROOM * max((value for share in found.data for value in (*share.devices, *share.guarantees)), default=0)
    shown = sorted(found.data, key=lambda share: (-sum(share.devices), -max(share.guarantees, default=0), share.name))
    edges = _edges(found)
    return [
        _draw(share, edges, top or 1.0, _slots(share, found, edges) if with_slots else ())
        for share in shown[:MOST_CHARTS]
    ]


def _edges(found: SharesOut) -> list[float]:
    """Where slots begin, and where the last one ends."""
    span = max(found.until - found.since, 1)
    count = len(found.data[0].devices) if found.data else 0
    return [round(WIDTH * number * found.slot_seconds / span, 1) for number in range(count)] + [float(WIDTH)]


def _draw(share: ShareOut, edges: Sequence[float], top: float, slots: tuple[Slot, ...]) -> ShareChart:
    average = sum(share.devices) / len(share.devices) if share.devices else 0.0
    return ShareChart(
        team_id=share.id,
        name=share.name,
        area=f"M0 {HEIGHT}{_steps(share.devices, edges, top)}V{HEIGHT}Z",
        guarantee=f"M0 {_y(share.guarantees[0] if share.guarantees else 0, top)}{_steps(share.guarantees, edges, top)}",
        slots=slots,
        average=average,
        highest=max(share.devices, default=0.0),
        guaranteed=share.guarantees[-1] if share.guarantees else 0.0,
    )


def _slots(share: ShareOut, found: SharesOut, edges: Sequence[float]) -> tuple[Slot, ...]:
    return tuple(
        Slot(
            x=edges[number],
            width=round(edges[number + 1] - edges[number], 1),
            title=f"{_say_start(found, number)}: {devices:.2f} held, {share.guarantees[number]:g} guaranteed",
        )
        for number, devices in enumerate(share.devices)
    )


def _steps(values: Sequence[float], edges: Sequence[float], top: float) -> str:
    return "".join(f"V{_y(value, top)}H{edges[number + 1]:g}" for number, value in enumerate(values))


def _y(value: float, top: float) -> str:
    return f"{HEIGHT - HEIGHT * value / top:.4g}"


def _say_start(found: SharesOut, number: int) -> str:
    at = datetime.fromtimestamp(found.since + number * found.slot_seconds, UTC)
    return at.strftime("%-d %B %H:%M UTC")
