"""Budgets: how much money a team may spend in a period, and what of it is left.

A job holds the upper end of what it may still cost from its start to its end; the ledger settles it. So what is left is

    budget - billed in this period - held by what runs,

and no number of jobs that start at once can spend the same dollar twice. A period is a UTC day, a week from Monday, or
a calendar month.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

WARNING_PERCENT = 80
"""Of the budget, billed and held: from here on a team is warned."""


class BudgetPeriod(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, kw_only=True)
class BudgetState:
    """One team's money in the current period, in micro-dollars. `budget_usd_micros` is None without a budget."""

    budget_usd_micros: int | None
    billed_usd_micros: int
    held_usd_micros: int
    started_at: datetime
    ends_at: datetime

    @property
    def left_usd_micros(self) -> int | None:
        """Never below zero; None without a budget."""
        if self.budget_usd_micros is None:
            return None
        return max(0, self.budget_usd_micros - self.billed_usd_micros - self.held_usd_micros)

    @property
    def used_percent(self) -> float | None:
        """Billed and held, of the budget; None without a budget."""
        if self.budget_usd_micros is None:
            return None
        used = self.billed_usd_micros + self.held_usd_micros
        return 100.0 * used / self.budget_usd_micros if self.budget_usd_micros else 100.0


def find_period(period: BudgetPeriod, now: datetime) -> tuple[datetime, datetime]:
    """The period that holds `now` (aware UTC): its first moment, and that of the next."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case BudgetPeriod.DAY:
            return day, day + timedelta(days=1)
        case BudgetPeriod.WEEK:
            monday = day - timedelta(days=day.weekday())
            return monday, monday + timedelta(days=7)
        case BudgetPeriod.MONTH:
            first = day.replace(day=1)
            return first, (first + timedelta(days=32)).replace(day=1)
