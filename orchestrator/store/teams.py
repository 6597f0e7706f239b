"""Teams: the tenants."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, select, update

from orchestrator.domain.budgets import BudgetPeriod
from orchestrator.domain.errors import ConflictError, NotFoundError
from orchestrator.domain.ids import new_team_id
from orchestrator.domain.teams import Team, WhenExhausted
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.accounts import teams

TERMS = frozenset(
    {
        "guarantee_micros",
        "ceiling_micros",
        "weight_millis",
        "budget_usd_micros",
        "budget_period",
        "when_exhausted",
    }
)
"""What an admin sets of a team."""


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


def lock_team(tx: WriteTx, team_id: str) -> Team:
    """As `get_team`; no one else changes the team, holds its money or settles it until the transaction ends."""
    row = tx.row(select(teams).where(teams.c.team_id == team_id).with_for_update())
    if row is None:
        raise NotFoundError(f"No such team: {team_id}")
    return _team(row)


def record_terms(tx: WriteTx, team_id: str, terms: Mapping[str, Any]) -> Team:
    """Set some of a team's terms (see TERMS); the others stay."""
    unknown = set(terms) - TERMS
    if unknown:
        raise ValueError(f"not terms: {sorted(unknown)}")
    row = tx.row(update(teams).where(teams.c.team_id == team_id).values(dict(terms)).returning(teams))
    if row is None:
        raise NotFoundError(f"No such team: {team_id}")
    return _team(row)


def record_usage(tx: WriteTx, team_id: str, *, usage: float, usage_at: datetime) -> None:
    """Replace the team's decayed usage. Lock the team first."""
    tx.execute(update(teams).where(teams.c.team_id == team_id).values(usage=usage, usage_at=usage_at))


def _team(row: RowMapping) -> Team:
    return Team(
        team_id=row["team_id"],
        name=row["name"],
        created_at=row["created_at"],
        guarantee_micros=row["guarantee_micros"],
        ceiling_micros=row["ceiling_micros"],
        weight_millis=row["weight_millis"],
        budget_usd_micros=row["budget_usd_micros"],
        budget_period=BudgetPeriod(row["budget_period"]),
        when_exhausted=WhenExhausted(row["when_exhausted"]),
        usage=row["usage"],
        usage_at=row["usage_at"],
    )
