"""Callers of use cases, as the holders of their keys."""

from orchestrator.domain.teams import Caller, Role
from orchestrator.store.session import Store
from tests.support.rows import add_key, add_team


def make_caller(store: Store, role: Role = Role.MEMBER, *, name: str | None = None) -> Caller:
    """Somebody of a new team."""
    with store.write() as tx:
        team = add_team(tx, name)
        key = add_key(tx, team.team_id, role=role)
    return Caller(key_id=key.key_id, team_id=team.team_id, team_name=team.name, role=role)


def as_role(caller: Caller, role: Role) -> Caller:
    """The same caller with another role."""
    return Caller(key_id=caller.key_id, team_id=caller.team_id, team_name=caller.team_name, role=role)
