"""Teams: who shares the pool."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Admin, Id, Reader, Repeats, Teams
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.teams import SharesOut, TeamCreate, TeamOut, TeamTerms
from api.schemas.wire import ListPage, list_page
from orchestrator.domain.teams import Caller, Team
from orchestrator.services.teams import Teams as TeamsService

Days = Annotated[int, Query(ge=1, le=31, description="How far back it goes.")]
router = APIRouter(prefix="/v1/teams", tags=["Teams"], route_class=JsonRoute)


def show(teams: TeamsService, caller: Caller, team: Team) -> TeamOut:
    return TeamOut.of(teams.standings(caller, (team,))[0])


@router.post("", responses=failures(400, 409, 413), summary="Create a team")
def create_team(body: TeamCreate, caller: Admin, teams: Teams, repeats: Repeats) -> TeamOut:
    """Admins only."""
    return show(teams, caller, teams.create(caller, body.name, marks=repeats))


@router.get("", summary="List teams")
def list_teams(caller: Reader, teams: Teams) -> ListPage[TeamOut]:
    """All teams for an admin, one's own for others."""
    return list_page([TeamOut.of(found) for found in teams.standings(caller, teams.list(caller))], has_more=False)


@router.get("/shares", responses=failures(400), summary="Show shares against guarantees")
def get_shares(caller: Reader, teams: Teams, days: Days = 7) -> SharesOut:
    """What teams held of the pool in the last days, in slots of a quarter of an hour to six hours: all teams for an
    admin, one's own for others."""
    return SharesOut.of(teams.shares(caller, days=days))


@router.get("/{team_id}", responses=failures(404), summary="Retrieve a team")
def get_team(team_id: Id, caller: Reader, teams: Teams) -> TeamOut:
    return show(teams, caller, teams.get(caller, team_id))


@router.patch("/{team_id}", responses=failures(400, 404, 413), summary="Change a team's terms")
def change_team(team_id: Id, body: TeamTerms, caller: Admin, teams: Teams) -> TeamOut:
    """Admins only; `team_id` may be the team's name. Jobs that run go on: new terms hold for the next start."""
    return TeamOut.of(teams.set_terms(caller, team_id, body.to_terms()))
