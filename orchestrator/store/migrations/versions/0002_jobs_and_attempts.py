"""Jobs, attempts, and what they leave and cost."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    "jobs",
    "attempts",
    "checkpoints",
    "events",
    "job_logs",
    "job_metadata",
    "job_metrics",
    "adapters",
    "ledger_entries",
)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str, *, nullable: bool = False, server_default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable, server_default=server_default, autoincrement=False)


def _big(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable, autoincrement=False)


def _row_id(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    """Microseconds since 1970 on SQLite."""
    return sa.Column(name, sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite"), nullable=nullable)


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    _create_jobs()
    _create_attempts()
    _create_checkpoints()
    _create_events()
    _create_job_logs()
    _create_job_metadata()
    _create_job_metrics()
    _create_adapters()
    _create_ledger_entries()


def downgrade() -> None:
    for name in reversed(TABLES):
        op.drop_table(name)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        _text("job_id"),
        _text("team_id"),
        _text("created_by"),
        _text("spec"),
        _big("seed"),
        _text("model_name"),
        _text("training_file"),
        _text("validation_file", nullable=True),
        _flag("has_metadata"),
        _integer("priority"),
        _text("state"),
        _text("phase", nullable=True),
        _text("plan", nullable=True),
        _text("footprints", nullable=True),
        _text("estimate", nullable=True),
        _big("total_steps", nullable=True),
        _big("current_step"),
        _big("trained_tokens"),
        _integer("platform_failures"),
        _integer("attempts"),
        _big("last_event_seq"),
        _text("error_code", nullable=True),
        _text("error_message", nullable=True),
        _text("error_param", nullable=True),
        _text("fine_tuned_model", nullable=True),
        _text("result_files"),
        _moment("created_at"),
        _moment("queued_at", nullable=True),
        _moment("not_before_at", nullable=True),
        _moment("started_at", nullable=True),
        _moment("finished_at", nullable=True),
        _moment("cancel_requested_at", nullable=True),
        _moment("pause_requested_at", nullable=True),
        _integer("sweep_stage", server_default="0"),
        sa.PrimaryKeyConstraint("job_id", name="pk_jobs"),
        sa.UniqueConstraint("job_id", "team_id", name="uq_jobs_job_id_team_id"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.team_id"], name="fk_jobs_team_id"),
        sa.CheckConstraint("(error_code IS NULL) = (error_message IS NULL)", name=op.f("ck_jobs_error")),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('cancelled', 'failed', 'succeeded'))",
            name=op.f("ck_jobs_finished_means_final"),
        ),
        sa.CheckConstraint("current_step >= 0 AND trained_tokens >= 0 AND attempts >= 0", name=op.f("ck_jobs_counts")),
        sa.CheckConstraint("state <> 'failed' OR error_code IS NOT NULL", name=op.f("ck_jobs_failed_says_why")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'failed', 'paused', 'pausing', 'queued', 'running', 'succeeded', "
            "'validating_files')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("state NOT IN ('queued', 'running') OR queued_at IS NOT NULL", name=op.f("ck_jobs_queued")),
    )
    op.create_index("ix_jobs_listing", "jobs", ["team_id", "created_at", "job_id"])
    op.create_index("ix_jobs_listing_all", "jobs", ["created_at", "job_id"])
    _partial_index("ix_jobs_placeable", "jobs", ["priority", "queued_at", "job_id"], "state = 'queued'")
    op.create_index("ix_jobs_state", "jobs", ["state", "created_at"])
    _partial_index(
        "ix_jobs_training_file", "jobs", ["training_file"], "state NOT IN ('cancelled', 'failed', 'succeeded')"
    )
    _partial_index(
        "ix_jobs_validation_file", "jobs", ["validation_file"], "state NOT IN ('cancelled', 'failed', 'succeeded')"
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        _text("attempt_id"),
        _text("job_id"),
        _text("team_id"),
        _integer("number"),
        _text("state"),
        _text("phase", nullable=True),
        _text("device_id"),
        _text("node_name"),
        _text("device_type"),
        _big("reserved_bytes"),
        _big("price_usd_micros_per_hour"),
        _big("rate_reserved_bytes"),
        _big("rate_device_bytes"),
        _text("lease_owner"),
        _text("lease_token"),
        _integer("lease_generation"),
        _moment("lease_expires_at"),
        _big("cursor"),
        _big("resumed_from_step", nullable=True),
        _text("stop_reason", nullable=True),
        _moment("stop_requested_at", nullable=True),
        _text("failure_kind", nullable=True),
        _text("failure_message", nullable=True),
        _moment("created_at"),
        _moment("started_at", nullable=True),
        _moment("last_contact_at", nullable=True),
        _moment("ended_at", nullable=True),
        _moment("released_at", nullable=True),
        _big("peak_allocated_bytes"),
        _big("peak_reserved_bytes"),
        _big("peak_device_bytes"),
        _text("result", nullable=True),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_attempts"),
        sa.UniqueConstraint("attempt_id", "job_id", "team_id", name="uq_attempts_attempt_id_job_id_team_id"),
        sa.UniqueConstraint("job_id", "number", name="uq_attempts_job_id_number"),
        sa.ForeignKeyConstraint(
            ["job_id", "team_id"], ["jobs.job_id", "jobs.team_id"], name="fk_attempts_job_id_team_id"
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('assigned', 'launching', 'running', 'verifying'))",
            name=op.f("ck_attempts_ended_means_final"),
        ),
        sa.CheckConstraint("cursor >= 0", name=op.f("ck_attempts_cursor")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number")),
        sa.CheckConstraint("price_usd_micros_per_hour >= 0 AND rate_device_bytes > 0", name=op.f("ck_attempts_rate")),
        sa.CheckConstraint("released_at IS NULL OR ended_at IS NOT NULL", name=op.f("ck_attempts_released_after_end")),
        sa.CheckConstraint("reserved_bytes > 0", name=op.f("ck_attempts_reserved")),
        sa.CheckConstraint(
            "state IN ('assigned', 'cancelled', 'failed', 'interrupted', 'launching', 'lost', "
            "'running', 'succeeded', 'verifying')",
            name=op.f("ck_attempts_state"),
        ),
    )
    _partial_index("ix_attempts_unreleased", "attempts", ["created_at"], "released_at IS NULL")
    _partial_index(
        "uq_attempts_active",
        "attempts",
        ["job_id"],
        "state IN ('assigned', 'launching', 'running', 'verifying')",
        unique=True,
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        _text("checkpoint_id"),
        _text("job_id"),
        _text("attempt_id"),
        _integer("attempt_number"),
        _big("step"),
        _text("key_prefix"),
        _text("files"),
        _text("metrics"),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("checkpoint_id", name="pk_checkpoints"),
        sa.UniqueConstraint("attempt_id", "step", name="uq_checkpoints_attempt_id_step"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_checkpoints_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_checkpoints_listing", "checkpoints", ["job_id", "created_at", "checkpoint_id"])


def _create_events() -> None:
    op.create_table(
        "events",
        _text("job_id"),
        _big("seq"),
        _text("event_id"),
        _moment("created_at"),
        _text("level"),
        _text("message"),
        _text("type"),
        _text("data", nullable=True),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_events_job_id", ondelete="CASCADE"),
        sa.CheckConstraint("level IN ('error', 'info', 'warn')", name=op.f("ck_events_level")),
    )


def _create_job_logs() -> None:
    op.create_table(
        "job_logs",
        _row_id("log_id"),
        _text("job_id"),
        _text("attempt_id"),
        _integer("attempt_number"),
        _big("seq"),
        _moment("at"),
        _text("stream"),
        _text("level"),
        _text("text"),
        sa.PrimaryKeyConstraint("log_id", name="pk_job_logs"),
        sa.UniqueConstraint("attempt_id", "seq", name="uq_job_logs_attempt_id_seq"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_job_logs_job_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_logs_job", "job_logs", ["job_id", "log_id"])


def _create_job_metadata() -> None:
    op.create_table(
        "job_metadata",
        _text("job_id"),
        _text("key"),
        _text("value"),
        sa.PrimaryKeyConstraint("job_id", "key", name="pk_job_metadata"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_job_metadata_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_job_metadata_pair", "job_metadata", ["key", "value", "job_id"])


def _create_job_metrics() -> None:
    op.create_table(
        "job_metrics",
        _row_id("metric_id"),
        _text("job_id"),
        _text("attempt_id"),
        _integer("attempt_number"),
        _big("seq"),
        _moment("at"),
        _big("step"),
        _text("values"),
        sa.PrimaryKeyConstraint("metric_id", name="pk_job_metrics"),
        sa.UniqueConstraint("attempt_id", "seq", name="uq_job_metrics_attempt_id_seq"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_job_metrics_job_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_metrics_job", "job_metrics", ["job_id", "metric_id"])


def _create_adapters() -> None:
    op.create_table(
        "adapters",
        _text("adapter_id"),
        _text("name"),
        _text("job_id"),
        _text("team_id"),
        _text("attempt_id"),
        _text("base_model"),
        _text("key_prefix"),
        _text("files"),
        _text("manifest"),
        _moment("created_at"),
        _moment("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("adapter_id", name="pk_adapters"),
        sa.UniqueConstraint("job_id", name="uq_adapters_job_id"),
        sa.UniqueConstraint("name", name="uq_adapters_name"),
        sa.ForeignKeyConstraint(
            ["attempt_id", "job_id", "team_id"],
            ["attempts.attempt_id", "attempts.job_id", "attempts.team_id"],
            name="fk_adapters_attempt_id_job_id_team_id",
        ),
    )
    op.create_index("ix_adapters_deleted_at", "adapters", ["deleted_at"])
    op.create_index("ix_adapters_listing", "adapters", ["team_id", "created_at", "adapter_id"])


def _create_ledger_entries() -> None:
    op.create_table(
        "ledger_entries",
        _text("attempt_id"),
        _integer("interval"),
        _text("job_id"),
        _text("team_id"),
        _text("device_type"),
        _moment("started_at"),
        _moment("ended_at"),
        _big("price_usd_micros_per_hour"),
        _big("rate_reserved_bytes"),
        _big("rate_device_bytes"),
        _big("amount_usd_micros"),
        _flag("billed"),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("attempt_id", "interval", name="pk_ledger_entries"),
        sa.ForeignKeyConstraint(
            ["attempt_id", "job_id", "team_id"],
            ["attempts.attempt_id", "attempts.job_id", "attempts.team_id"],
            name="fk_ledger_entries_attempt_id_job_id_team_id",
        ),
        sa.CheckConstraint("amount_usd_micros >= 0", name=op.f("ck_ledger_entries_amount")),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("ck_ledger_entries_interval")),
    )
    op.create_index("ix_ledger_entries_job_id", "ledger_entries", ["job_id"])
    op.create_index("ix_ledger_entries_team", "ledger_entries", ["team_id", "created_at"])
