"""One team: its terms and budget, what it held against its guarantee, its keys, and what was changed."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dashboard.views.budgets import show_budget
from api.dashboard.views.changes import Change, show_changes
from api.dashboard.views.shares import draw_shares
from api.dependencies import Admin, Id, Keys, Reader, Teams
from api.schemas.teams import KeyOut, SharesOut, TeamOut, TeamTerms
from api.validation import explain_model
from orchestrator.domain.budgets import WARNING_PERCENT, BudgetPeriod
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.queries import AuditQuery
from orchestrator.domain.teams import Caller, WhenExhausted
from orchestrator.services.keys import Keys as KeysService
from orchestrator.services.teams import Teams as TeamsService

router = APIRouter(prefix="/teams/{team_id}", route_class=PageRoute)
Days = Literal["1", "7", "31"]
CHANGES_SHOWN = 10
MOST_KEYS = 100
TERMS = ("guarantee_devices", "ceiling_devices", "weight")
BUDGET = ("budget_usd", "budget_period", "when_exhausted")
Given = dict[str, str | None]
"""A form's fields; None takes the term away."""


@router.get("")
def show_team(
    request: Request, team_id: Id, caller: Reader, teams: Teams, keys: Keys, days: Annotated[Days, Query()] = "7"
) -> Response:
    return render(request, "team.html", _describe(caller, teams, keys, team_id, days=int(days)))


@router.post("/terms")
def change_terms(request: Request, team_id: Id, caller: Admin, form: Form, teams: Teams, keys: Keys) -> Response:
    given: Given = {name: read_field(form, name) for name in TERMS}
    return _change(request, caller, teams, keys, team_id, given | {"ceiling_devices": given["ceiling_devices"] or None})


@router.post("/budget")
def change_budget(request: Request, team_id: Id, caller: Admin, form: Form, teams: Teams, keys: Keys) -> Response:
    """`remove` takes the budget away, whatever else was typed."""
    if read_field(form, "remove"):
        return _change(request, caller, teams, keys, team_id, {"budget_usd": None})
    return _change(request, caller, teams, keys, team_id, {name: read_field(form, name) for name in BUDGET})


def _change(
    request: Request, caller: Caller, teams: TeamsService, keys: KeysService, team_id: str, given: Given
) -> Response:
    """The page again with what was typed, and what is wrong with it, when it cannot be taken."""
    team = teams.get(caller, team_id)
    try:
        teams.set_terms(caller, team.team_id, _read_terms(given).to_terms())
    except InvalidRequestError as error:
        values = _describe(caller, teams, keys, team_id, days=7) | {"problem": error}
        values["typed"] |= {name: text or "" for name, text in given.items()}
        return render(request, "team.html", values, status=400)
    return go_to(request, f"/teams/{team.team_id}")


def _read_terms(given: Given) -> TeamTerms:
    """Raises InvalidRequestError that names the field, as the API does."""
    empty = next((name for name, text in given.items() if text == ""), None)
    if empty is not None:
        raise InvalidRequestError(f"{empty} is required", code="missing_required_parameter", param=empty)
    try:
        return TeamTerms.model_validate(given)
    except ValidationError as error:
        raise explain_model(error, body=given, model=TeamTerms) from None


def _describe(caller: Caller, teams: TeamsService, keys: KeysService, team_id: str, *, days: int) -> dict[str, Any]:
    found = teams.get(caller, team_id)
    team = TeamOut.of(teams.standings(caller, (found,))[0])
    shares = teams.shares(caller, days=days, team_id=team_id)
    every_key = keys.list(caller)
    mine = sorted((key for key in every_key if key.team_id == team_id), key=lambda key: key.revoked_at is not None)
    return {
        "team": team,
        "budget": show_budget(team),
        "warning_percent": WARNING_PERCENT,
        "periods": [period.value for period in BudgetPeriod],
        "when_exhausted": {
            WhenExhausted.WAIT.value: "wait for the next period",
            WhenExhausted.IDLE.value: "run as idle",
        },
        "days": days,
        "share": draw_shares(SharesOut.of(shares), with_slots=True)[0],
        "keys": [KeyOut.of(key) for key in mine[:MOST_KEYS]],
        "keys_found": len(mine),
        "changes": _read_changes(caller, teams, team_id, {key.key_id: key.name for key in every_key}),
        "problem": None,
        "typed": _write_terms(team),
    }


def _read_changes(caller: Caller, teams: TeamsService, team_id: str, names: dict[str, str]) -> list[Change]:
    page = teams.audit_log(caller, which=AuditQuery(team_id=team_id), limit=CHANGES_SHOWN)
    return show_changes(page.items, names)


def _write_terms(team: TeamOut) -> dict[str, str]:
    """The fields of both forms as they are now."""
    budget = "" if team.budget_usd is None else f"{Decimal(team.budget_usd).normalize():f}"
    return {
        "guarantee_devices": f"{team.guarantee_devices:g}",
        "ceiling_devices": "" if team.ceiling_devices is None else f"{team.ceiling_devices:g}",
        "weight": f"{team.weight:g}",
        "budget_usd": budget,
        "budget_period": team.budget_period.value,
        "when_exhausted": team.when_exhausted.value,
    }
