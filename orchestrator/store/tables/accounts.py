"""Teams, their keys, and the answers that a repeated request gets again."""

from sqlalchemy import Column, ForeignKey, Index, Table

from orchestrator.domain.teams import Role
from orchestrator.store.columns import Moment, Str
from orchestrator.store.tables.conventions import metadata, one_of

teams = Table(
    "teams",
    metadata,
    Column("team_id", Str, primary_key=True),
    Column("name", Str, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Str, primary_key=True),
    Column("team_id", Str, ForeignKey("teams.team_id"), nullable=False, index=True),
    Column("name", Str, nullable=False),
    Column("role", Str, nullable=False),
    Column("prefix", Str, nullable=False),
    Column("secret_sha256", Str, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used_at", Moment),
    one_of("role", Role),
)

idempotency_records = Table(
    "idempotency_records",
    metadata,
    Column("key_id", Str, ForeignKey("api_keys.key_id"), primary_key=True),
    Column("scope", Str, primary_key=True),
    Column("idempotency_key", Str, primary_key=True),
    Column("fingerprint", Str, nullable=False),
    Column("created_at", Moment, nullable=False, index=True),
    Column("object_id", Str, nullable=False),
    Index("ix_idempotency_records_fingerprint", "key_id", "scope", "fingerprint", "created_at"),
)
