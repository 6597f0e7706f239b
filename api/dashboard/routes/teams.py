"""Teams and their keys: made, shown once, revoked."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dependencies import Admin, Id, Keys, Reader, Teams
from api.schemas.teams import KeyOut, TeamOut
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.keys import Keys as KeysService
from orchestrator.services.keys import NewKey
from orchestrator.services.teams import Teams as TeamsService

router = APIRouter(prefix="/teams", route_class=PageRoute)
DAY_SECONDS = 86_400
LONGEST_DAYS = 3660


@router.get("")
def show_teams(request: Request, caller: Reader, teams: Teams, keys: Keys) -> Response:
    return render(request, "teams.html", _describe(caller, teams, keys))


@router.post("")
def create_team(request: Request, caller: Admin, form: Form, teams: Teams) -> Response:
    teams.create(caller, read_field(form, "name"))
    return go_to(request, "/teams")


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


def _describe(caller: Caller, teams: TeamsService, keys: KeysService, *, made: NewKey | None = None) -> dict[str, Any]:
    found = [TeamOut.of(standing) for standing in teams.standings(caller, teams.list(caller))]
    return {
        "teams": found,
        "names": {team.id: team.name for team in found},
        "keys": [KeyOut.of(key) for key in keys.list(caller)],
        "roles": [role.value for role in (Role.MEMBER, Role.VIEWER, Role.ADMIN)],
        "made": None if made is None else {"key": KeyOut.of(made.key), "secret": made.secret},
    }
