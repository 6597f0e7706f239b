"""Attempts, what they leave, and what they cost.

Rows carry the job's team and refer to both, so that a link across teams cannot be stored. Money is BIGINT: whole
micro-dollars.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    UniqueConstraint,
    text,
)

from orchestrator.domain.states import ACTIVE_ATTEMPT_STATES, AttemptState
from orchestrator.store.columns import Json, Moment, Str
from orchestrator.store.tables.conventions import metadata, one_of, sql_list

_ACTIVE = f"state IN ({sql_list(ACTIVE_ATTEMPT_STATES)})"
_UNRELEASED = text("released_at IS NULL")

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", Str, primary_key=True),
    Column("job_id", Str, nullable=False),
    Column("team_id", Str, nullable=False),
    Column("number", Integer, nullable=False),
    CheckConstraint("number >= 1", name="number"),
    Column("state", Str, nullable=False),
    Column("phase", Str),
    Column("device_id", Str, nullable=False),
    Column("node_name", Str, nullable=False),
    Column("device_type", Str, nullable=False),
    Column("reserved_bytes", BigInteger, nullable=False),
    CheckConstraint("reserved_bytes > 0", name="reserved"),
    Column("price_usd_micros_per_hour", BigInteger, nullable=False),
    Column("rate_reserved_bytes", BigInteger, nullable=False),
    Column("rate_device_bytes", BigInteger, nullable=False),
    Column("lease_owner", Str, nullable=False),
    Column("lease_token", Str, nullable=False),
    Column("lease_generation", Integer, nullable=False),
    Column("lease_expires_at", Moment, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    CheckConstraint("cursor >= 0", name="cursor"),
    Column("resumed_from_step", BigInteger),
    Column("stop_reason", Str),
    Column("stop_requested_at", Moment),
    Column("failure_kind", Str),
    Column("failure_message", Str),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("last_contact_at", Moment),
    Column("ended_at", Moment),
    Column("released_at", Moment),
    Column("peak_allocated_bytes", BigInteger, nullable=False),
    Column("peak_reserved_bytes", BigInteger, nullable=False),
    Column("peak_device_bytes", BigInteger, nullable=False),
    Column("result", Json),
    Column("pace", Json),
    Column("preempt_rule", Str),
    Column("preempted_for", Str),
    Column("grace_ends_at", Moment),
    Column("rate_micros", BigInteger, nullable=False, server_default="0"),
    Column("runs_as", Str),
    Column("more_devices", Json),
    ForeignKeyConstraint(["job_id", "team_id"], ["jobs.job_id", "jobs.team_id"]),
    one_of("state", AttemptState),
    CheckConstraint(f"(ended_at IS NULL) = ({_ACTIVE})", name="ended_means_final"),
    CheckConstraint("released_at IS NULL OR ended_at IS NOT NULL", name="released_after_end"),
    CheckConstraint("price_usd_micros_per_hour >= 0 AND rate_device_bytes > 0", name="rate"),
    UniqueConstraint("job_id", "number"),
    UniqueConstraint("attempt_id", "job_id", "team_id"),
    Index("uq_attempts_active", "job_id", unique=True, sqlite_where=text(_ACTIVE), postgresql_where=text(_ACTIVE)),
    Index("ix_attempts_unreleased", "created_at", sqlite_where=_UNRELEASED, postgresql_where=_UNRELEASED),
    Index("ix_attempts_released", "released_at"),
)


def of_attempt() -> ForeignKeyConstraint:
    """The attempt, its job and its team belong together."""
    return ForeignKeyConstraint(
        ["attempt_id", "job_id", "team_id"], ["attempts.attempt_id", "attempts.job_id", "attempts.team_id"]
    )


checkpoints = Table(
    "checkpoints",
    metadata,
    Column("checkpoint_id", Str, primary_key=True),
    Column("job_id", Str, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("attempt_id", Str, nullable=False),
    Column("attempt_number", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("key_prefix", Str, nullable=False),
    Column("files", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("attempt_id", "step"),
    Index("ix_checkpoints_listing", "job_id", "created_at", "checkpoint_id"),
)

adapters = Table(
    "adapters",
    metadata,
    Column("adapter_id", Str, primary_key=True),
    Column("name", Str, nullable=False, unique=True),
    Column("job_id", Str, nullable=False, unique=True),
    Column("team_id", Str, nullable=False),
    Column("attempt_id", Str, nullable=False),
    Column("base_model", Str, nullable=False),
    Column("key_prefix", Str, nullable=False),
    Column("files", Json, nullable=False),
    Column("manifest", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("deleted_at", Moment, index=True),
    of_attempt(),
    Index("ix_adapters_listing", "team_id", "created_at", "adapter_id"),
)


ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("attempt_id", Str, primary_key=True),
    Column("interval", Integer, primary_key=True, autoincrement=False),
    Column("job_id", Str, nullable=False, index=True),
    Column("team_id", Str, nullable=False),
    Column("device_type", Str, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment, nullable=False),
    Column("price_usd_micros_per_hour", BigInteger, nullable=False),
    Column("rate_reserved_bytes", BigInteger, nullable=False),
    Column("rate_device_bytes", BigInteger, nullable=False),
    Column("amount_usd_micros", BigInteger, nullable=False),
    CheckConstraint("amount_usd_micros >= 0", name="amount"),
    Column("billed", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("device_id", Str),
    of_attempt(),
    CheckConstraint("ended_at >= started_at", name="interval"),
    Index("ix_ledger_entries_team", "team_id", "created_at"),
)
