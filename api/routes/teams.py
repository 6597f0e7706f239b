"""Teams: who shares the pool."""

from fastapi import APIRouter

from api.dependencies import Admin, Id, Reader, Repeats, Teams
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.teams import TeamCreate, TeamOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/teams", tags=["Teams"], route_class=JsonRoute)


@router.post("", responses=failures(400, 409, 413), summary="Create a team")
def create_team(body: TeamCreate, caller: Admin, teams: Teams, repeats: Repeats) -> TeamOut:
    """Admins only."""
    return TeamOut.of(teams.create(caller, body.name, marks=repeats))


@router.get("", summary="List teams")
def list_teams(caller: Reader, teams: Teams) -> ListPage[TeamOut]:
    """All teams for an admin, one's own for others."""
    return list_page([TeamOut.of(team) for team in teams.list(caller)], has_more=False)


@router.get("/{team_id}", responses=failures(404), summary="Retrieve a team")
def get_team(team_id: Id, caller: Reader, teams: Teams) -> TeamOut:
    return TeamOut.of(teams.get(caller, team_id))
