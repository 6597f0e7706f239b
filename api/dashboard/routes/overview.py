"""What runs, waits and ended lately; the pool's use; this month's spend."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render, wants_fragment
from api.dashboard.views.budgets import BudgetMeter, show_budget
from api.dashboard.views.devices import show_devices
from api.dashboard.views.jobs import ACTIVE, WAITING, show_jobs
from api.dashboard.views.spend import show_team_lines
from api.dependencies import Costs, Jobs, Pool, Reader, Teams
from api.schemas.teams import TeamOut
from orchestrator.domain.budgets import BudgetPeriod, find_period
from orchestrator.domain.queries import JobQuery
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller
from orchestrator.services.jobs import Jobs as JobsService
from orchestrator.services.teams import Teams as TeamsService

router = APIRouter(route_class=PageRoute)
MOST_TEAMS = 10
SHOWN = {
    "active": (ACTIVE, 8),
    "waiting": (WAITING, 8),
    "failed": ((JobState.FAILED,), 5),
    "succeeded": ((JobState.SUCCEEDED,), 5),
}
"""Lists of the page: the states in each, and the most jobs that it has."""


@router.get("/")
def show_overview(request: Request, caller: Reader, jobs: Jobs, pool: Pool, costs: Costs, teams: Teams) -> Response:
    now = datetime.now(UTC)
    month_started_at, _ = find_period(BudgetPeriod.MONTH, now)
    spend = costs.by_team_and_model(caller, since=month_started_at, until=now)
    values: dict[str, Any] = {
        "counts": {state.value: number for state, number in jobs.count(caller).items()},
        "devices": show_devices(caller, pool.list(caller)),
        "teams": show_team_lines(spend, _read_budgets(caller, teams), most=MOST_TEAMS),
        "has_spent": bool(spend),
        "month": now.strftime("%B"),
        **_lists(jobs, caller),
    }
    return render(request, "parts/overview.html" if wants_fragment(request) else "overview.html", values)


def _read_budgets(caller: Caller, teams: TeamsService) -> dict[str, BudgetMeter]:
    """Of teams that have one, by name."""
    found = [team for team in teams.list(caller) if team.budget_usd_micros is not None]
    meters = [show_budget(TeamOut.of(standing)) for standing in teams.standings(caller, found)]
    return {meter.team.name: meter for meter in meters}


def _lists(jobs: JobsService, caller: Caller) -> dict[str, Any]:
    pages = {
        name: jobs.list(caller, which=JobQuery(states=states), limit=limit) for name, (states, limit) in SHOWN.items()
    }
    found = show_jobs(jobs, caller, [job for page in pages.values() for job in page.items])
    by_id = {job.id: job for job in found}
    return {name: [by_id[job.job_id] for job in page.items] for name, page in pages.items()}
