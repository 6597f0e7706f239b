"""What was spent: by team, by model and by day."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render
from api.dashboard.views.spend import show_days, show_models, show_teams
from api.dependencies import Costs, Reader
from orchestrator.domain.budgets import BudgetPeriod, find_period

router = APIRouter(route_class=PageRoute)
Period = Literal["month", "last_month", "30_days"]
PERIODS: dict[Period, str] = {"month": "This month", "last_month": "Last month", "30_days": "30 days"}


@router.get("/reports")
def show_reports(
    request: Request, caller: Reader, costs: Costs, period: Annotated[Period, Query()] = "month"
) -> Response:
    since, until = find_bounds(period, datetime.now(UTC))
    spends = costs.by_team_and_model(caller, since=since, until=until)
    days = costs.by_day(caller, since=since, days=(until - since).days)
    values: dict[str, Any] = {
        "period": period,
        "periods": PERIODS,
        "since": since,
        "until": until,
        "teams": show_teams(spends),
        "models": show_models(spends),
        "days": show_days(days),
        "highest_usd_micros": max((day.billed_usd_micros + day.lost_usd_micros for day in days), default=0),
        "billed_usd_micros": sum(spend.billed_usd_micros for spend in spends),
        "lost_usd_micros": sum(spend.lost_usd_micros for spend in spends),
    }
    return render(request, "reports.html", values)


def find_bounds(period: Period, now: datetime) -> tuple[datetime, datetime]:
    """The first moment, and the first one behind: whole days of UTC."""
    month, _ = find_period(BudgetPeriod.MONTH, now)
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    if period == "month":
        return month, tomorrow
    if period == "last_month":
        return find_period(BudgetPeriod.MONTH, month - timedelta(days=1))
    return tomorrow - timedelta(days=30), tomorrow
