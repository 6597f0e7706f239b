"""Teams, their keys, who changed what, and the answers that a repeated request gets again."""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Table

from orchestrator.domain.teams import Role
from orchestrator.store.columns import Json, Moment, Str
from orchestrator.store.tables.conventions import RowId, metadata, one_of

teams = Table(
    "teams",
    metadata,
    Column("team_id", Str, primary_key=True),
    Column("name", Str, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("guarantee_micros", BigInteger, nullable=False, server_default="0"),
    Column("ceiling_micros", BigInteger),
    Column("weight_millis", BigInteger, nullable=False, server_default="1000"),
    Column("budget_usd_micros", BigInteger),
    Column("budget_period", Str, nullable=False, server_default="month"),
    Column("when_exhausted", Str, nullable=False, server_default="wait"),
    Column("usage", Float, nullable=False, server_default="0"),
    Column("usage_at", Moment),
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

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("audit_id", RowId, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("key_id", Str, nullable=False),
    Column("team_id", Str, nullable=False),
    Column("action", Str, nullable=False),
    Column("subject", Str, nullable=False),
    Column("data", Json),
    Index("ix_audit_entries_team", "team_id", "audit_id"),
    sqlite_autoincrement=True,
)
