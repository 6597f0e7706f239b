"""Callers of use cases, without keys."""

from orchestrator.domain.teams import Caller, Role
from orchestrator.store.session import Store
from tests.support.rows import add_team


def make_caller(store: Store, role: Role = Role.MEMBER, *, name: str | None = None) -> Caller:
    """Somebody of a new team."""
    with store.write() as tx:
        team = add_team(tx, name)
    return Caller(key_id="key-1", team_id=team.team_id, team_name=team.name, role=role)


def as_role(caller: Caller, role: Role) -> Caller:
    """Somebody else of the same team."""
    return Caller(key_id="key-2", team_id=caller.team_id, team_name=caller.team_name, role=role)
