"""Teams and their keys: shares against guarantees; keys made, shown once, revoked."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dashboard.views.budgets import show_budget
from api.dashboard.views.shares import draw_shares
from api.dependencies import Admin, Id, Keys, Reader, Teams
from api.schemas.teams import KeyOut, SharesOut, TeamOut
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.keys import Keys as KeysService
from orchestrator.services.keys import NewKey
from orchestrator.services.teams import Teams as TeamsService

router = APIRouter(prefix="/teams", route_class=PageRoute)
DAY_SECONDS = 86_400
LONGEST_DAYS = 3660
SHARE_DAYS = 7
MOST_TEAMS = 100
MOST_KEYS = 100
"""Shown at once; a search finds the others."""
Search = Annotated[str, Query(max_length=64)]


@router.get("")
def show_teams(request: Request, caller: Reader, teams: Teams, keys: Keys, search: Search = "") -> Response:
    return render(request, "teams.html", _describe(caller, teams, keys, search=search))


@router.post("")
def create_team(request: Request, caller: Admin, form: Form, teams: Teams) -> Response:
    return go_to(request, f"/teams/{teams.create(caller, read_field(form, 'name')).team_id}")


@router.post("/keys")
def create_key(request: Request, caller: Admin, form: Form, teams: Teams, keys: Keys) -> Response:
    """The page that follows is the only place where the key is ever shown."""
    role, days = read_field(form, "role", default=Role.MEMBER), read_field(form, "days")
    if role not in set(Role):
        raise InvalidRequestError(f"role must be one of {', '.join(Role)}", param="role")
    if days and not (days.isascii() and days.isdecimal() and 0 < int(days[:9]) <= LONGEST_DAYS):
        raise InvalidRequestError(f"days must be a number from 1 to {LONGEST_DAYS}", param="days")
    made = keys.create(
        caller,
        name=read_field(form, "name"),
        role=Role(role),
        team=read_field(form, "team") or None,
        expires_in_seconds=int(days) * DAY_SECONDS if days else None,
    )
    return render(request, "teams.html", _describe(caller, teams, keys, made=made))


@router.post("/keys/{key_id}/revoke")
def revoke_key(request: Request, key_id: Id, caller: Admin, form: Form, keys: Keys) -> Response:
    keys.revoke(caller, key_id)
    return go_to(request, "/teams")


def _describe(
    caller: Caller, teams: TeamsService, keys: KeysService, *, made: NewKey | None = None, search: str = ""
) -> dict[str, Any]:
    found = teams.list(caller)
    names = {team.team_id: team.name for team in found}
    chosen = [team for team in found if _matches(search, team.name)]
    shown = [TeamOut.of(standing) for standing in teams.standings(caller, chosen[:MOST_TEAMS])]
    matching = [key for key in keys.list(caller) if _matches(search, key.name, key.prefix, names.get(key.team_id, ""))]
    matching.sort(key=lambda key: key.revoked_at is not None)
    return {
        "budgets": [show_budget(team) for team in shown],
        "teams_found": len(chosen),
        "names": names,
        "keys": [KeyOut.of(key) for key in matching[:MOST_KEYS]],
        "keys_found": len(matching),
        "search": search,
        "shares": [] if search else draw_shares(SharesOut.of(teams.shares(caller, days=SHARE_DAYS))),
        "share_days": SHARE_DAYS,
        "roles": [role.value for role in (Role.MEMBER, Role.VIEWER, Role.ADMIN)],
        "made": None if made is None else {"key": KeyOut.of(made.key), "secret": made.secret},
    }


def _matches(search: str, *texts: str) -> bool:
    return not search or any(search.lower() in text.lower() for text in texts)
