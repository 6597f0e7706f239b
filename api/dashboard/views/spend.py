"""Money spent in a period, by team and by model, largest first, with bars to one scale."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from api.dashboard.views.bars import scale
from api.dashboard.views.budgets import BudgetMeter
from orchestrator.services.costs import DaySpend, Spend


@dataclass(frozen=True, kw_only=True)
class SpendRow:
    """`width` is of the largest row."""

    name: str
    billed_usd_micros: int
    lost_usd_micros: int
    width: float


@dataclass(frozen=True, kw_only=True)
class TeamLine:
    """A team with what it spent, and its budget if it has one."""

    row: SpendRow
    meter: BudgetMeter | None


@dataclass(frozen=True, kw_only=True)
class DayBar:
    """`height` is billed, `lost_height` lies on top of it."""

    day: str
    x: float
    width: float
    height: float
    lost_height: float
    billed_usd_micros: int
    lost_usd_micros: int


def show_teams(spends: Iterable[Spend]) -> list[SpendRow]:
    return _sum((spend.team_name, spend) for spend in spends)


def show_team_lines(spends: Iterable[Spend], budgets: Mapping[str, BudgetMeter], *, most: int) -> list[TeamLine]:
    """The teams that spent the most, and below them others that have a budget: at most `most` of each. `budgets` are by
    the team's name."""
    rows = show_teams(spends)
    spent = {row.name: row for row in rows}
    first = [row.name for row in rows[:most]]
    others = [name for name in budgets if name not in first][:most]
    return [TeamLine(row=spent.get(name) or _no_spend(name), meter=budgets.get(name)) for name in first + others]


def _no_spend(name: str) -> SpendRow:
    return SpendRow(name=name, billed_usd_micros=0, lost_usd_micros=0, width=0.0)


def show_models(spends: Iterable[Spend]) -> list[SpendRow]:
    return _sum((spend.model, spend) for spend in spends)


def _sum(named: Iterable[tuple[str, Spend]]) -> list[SpendRow]:
    sums: dict[str, tuple[int, int]] = {}
    for name, spend in named:
        billed, lost = sums.get(name, (0, 0))
        sums[name] = (billed + spend.billed_usd_micros, lost + spend.lost_usd_micros)
    largest = max((billed for billed, _ in sums.values()), default=0)
    return [
        SpendRow(name=name, billed_usd_micros=billed, lost_usd_micros=lost, width=scale(billed, largest))
        for name, (billed, lost) in sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    ]


def show_days(days: Sequence[DaySpend], *, gap: float = 0.2) -> list[DayBar]:
    """Columns over an axis of WIDTH units both ways; `gap` is the share of a column that is left free."""
    largest = max((day.billed_usd_micros + day.lost_usd_micros for day in days), default=0)
    step = 1000 / max(len(days), 1)
    return [
        DayBar(
            day=day.day.strftime("%Y-%m-%d"),
            x=round(number * step, 2),
            width=round(step * (1 - gap), 2),
            height=scale(day.billed_usd_micros, largest),
            lost_height=scale(day.lost_usd_micros, largest),
            billed_usd_micros=day.billed_usd_micros,
            lost_usd_micros=day.lost_usd_micros,
        )
        for number, day in enumerate(days)
    ]
