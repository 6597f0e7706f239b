"""API keys. The secret itself never reaches the store, only its SHA-256."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, RowMapping, func, or_, select, update

from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.ids import new_key_id
from orchestrator.domain.teams import ApiKey, Role
from orchestrator.store.columns import bind_moment
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.accounts import api_keys

USED_RESOLUTION = timedelta(minutes=1)
"""How stale `last_used_at` may be: a write for each request would make every read a write."""


def insert_key(
    tx: WriteTx,
    *,
    team_id: str,
    name: str,
    role: Role,
    prefix: str,
    secret_sha256: str,
    expires_at: datetime | None,
) -> ApiKey:
    """Raises ConflictError when the team is not there or the secret is in use."""
    statement = tx.insert(api_keys).values(
        key_id=new_key_id(),
        team_id=team_id,
        name=name,
        role=role,
        prefix=prefix,
        secret_sha256=secret_sha256,
        created_at=tx.now(),
        expires_at=expires_at,
    )
    row = tx.row(statement.returning(api_keys))
    assert row is not None
    return _key(row)


def find_key(tx: ReadTx, secret_sha256: str) -> ApiKey | None:
    """The key of this secret, revoked and expired ones too: the caller judges them."""
    row = tx.row(select(api_keys).where(api_keys.c.secret_sha256 == secret_sha256))
    return None if row is None else _key(row)


def get_key(tx: ReadTx, key_id: str, team_id: str | None) -> ApiKey:
    row = tx.row(select(api_keys).where(api_keys.c.key_id == key_id, *_of_team(team_id)))
    if row is None:
        raise NotFoundError(f"No such API key: {key_id}")
    return _key(row)


def list_keys(tx: ReadTx, team_id: str | None) -> list[ApiKey]:
    """Newest first, revoked ones too."""
    query = select(api_keys).where(*_of_team(team_id))
    return [_key(row) for row in tx.rows(query.order_by(api_keys.c.created_at.desc(), api_keys.c.key_id.desc()))]


def revoke_key(tx: WriteTx, key_id: str, team_id: str | None) -> ApiKey:
    """Safe to repeat: the first moment stays."""
    statement = update(api_keys).where(api_keys.c.key_id == key_id, *_of_team(team_id))
    row = tx.row(
        statement.values(revoked_at=func.coalesce(api_keys.c.revoked_at, bind_moment(tx.now()))).returning(api_keys),
    )
    if row is None:
        raise NotFoundError(f"No such API key: {key_id}")
    return _key(row)


def record_key_used(tx: WriteTx, key_id: str) -> None:
    """Note the use, to the minute; ask `needs_use_recorded` first to spare the transaction."""
    now = tx.now()
    stale = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < now - USED_RESOLUTION)
    tx.execute(update(api_keys).where(api_keys.c.key_id == key_id, stale).values(last_used_at=now))


def needs_use_recorded(key: ApiKey, now: datetime) -> bool:
    return key.last_used_at is None or key.last_used_at < now - USED_RESOLUTION


def count_keys(tx: ReadTx) -> int:
    return int(tx.scalar(select(func.count()).select_from(api_keys)))


def _of_team(team_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if team_id is None else (api_keys.c.team_id == team_id,)


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        team_id=row["team_id"],
        name=row["name"],
        role=Role(row["role"]),
        prefix=row["prefix"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
