"""Teams: who shares the pool."""

import re
from dataclasses import dataclass

from orchestrator.domain.errors import ForbiddenError, InvalidRequestError, NotFoundError
from orchestrator.domain.ids import new_team_id
from orchestrator.domain.teams import Caller, Role, Team
from orchestrator.services import idempotency
from orchestrator.services.idempotency import UNMARKED, Marks
from orchestrator.store import teams
from orchestrator.store.session import ReadTx, Store

SCOPE = "POST /v1/teams"
_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")


def require_admin(caller: Caller) -> None:
    """Raises ForbiddenError unless the caller runs the pool."""
    if caller.role is not Role.ADMIN:
        raise ForbiddenError(f"this key is a {caller.role.value}'s; an admin's is needed")


def require_member(caller: Caller) -> None:
    """Raises ForbiddenError when the caller may only read."""
    if caller.role is Role.VIEWER:
        raise ForbiddenError("this key is a viewer's, which reads; a member's or an admin's is needed")


def find_named_team(tx: ReadTx, name_or_id: str) -> Team:
    """A team by its name or its id. Raises InvalidRequestError that names the teams that exist."""
    found = teams.find_team_by_name(tx, name_or_id)
    if found is not None:
        return found
    try:
        return teams.get_team(tx, name_or_id)
    except NotFoundError:
        known = ", ".join(team.name for team in teams.list_teams(tx))
        raise InvalidRequestError(f"there is no team {name_or_id!r}; there are {known}", param="team") from None


@dataclass(frozen=True)
class Teams:
    store: Store

    def create(self, caller: Caller, name: str, *, marks: Marks = UNMARKED) -> Team:
        """Names are lower case letters, digits and dashes, because they become part of model names. A repeat, by its
        `marks`, gives the first one's team; raises ConflictError for the name of another."""
        require_admin(caller)
        if not _NAME.match(name):
            raise InvalidRequestError(
                f"{name!r} is not a team's name: use up to 63 lower case letters, digits and dashes", param="name"
            )
        with self.store.write() as tx:
            team_id, repeat = new_team_id(), marks.of({"name": name})
            first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=team_id)
            if first_id is not None:
                return teams.get_team(tx, first_id)
            return teams.insert_team(tx, name=name, team_id=team_id)

    def get(self, caller: Caller, team_id: str) -> Team:
        if caller.visible_team_id not in {None, team_id}:
            raise NotFoundError(f"No such team: {team_id}")
        with self.store.read() as tx:
            return teams.get_team(tx, team_id)

    def list(self, caller: Caller) -> tuple[Team, ...]:
        """All teams for an admin, one's own for others."""
        with self.store.read() as tx:
            if caller.visible_team_id is None:
                return tuple(teams.list_teams(tx))
            return (teams.get_team(tx, caller.team_id),)
