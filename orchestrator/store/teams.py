"""Teams: the tenants."""

from sqlalchemy import RowMapping, select

from orchestrator.domain.errors import ConflictError, NotFoundError
from orchestrator.domain.ids import new_team_id
from orchestrator.domain.teams import Team
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.accounts import teams


def insert_team(tx: WriteTx, *, name: str, team_id: str | None = None) -> Team:
    """Raises ConflictError (name_taken) when a team has this name."""
    statement = tx.insert(teams).values(team_id=team_id or new_team_id(), name=name, created_at=tx.now())
    row = tx.row(statement.on_conflict_do_nothing(index_elements=["name"]).returning(teams))
    if row is None:
        raise ConflictError(f"There is a team named {name!r} already.", code="name_taken", param="name")
    return _team(row)


def get_team(tx: ReadTx, team_id: str) -> Team:
    row = tx.row(select(teams).where(teams.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such team: {team_id}")
    return _team(row)


def find_team_by_name(tx: ReadTx, name: str) -> Team | None:
    row = tx.row(select(teams).where(teams.c.name == name))
    return None if row is None else _team(row)


def list_teams(tx: ReadTx) -> list[Team]:
    return [_team(row) for row in tx.rows(select(teams).order_by(teams.c.name))]


def _team(row: RowMapping) -> Team:
    return Team(team_id=row["team_id"], name=row["name"], created_at=row["created_at"])
