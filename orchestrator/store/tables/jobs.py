"""Jobs and what is said about them: metadata, events, logs, metrics."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    UniqueConstraint,
    text,
)

from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.store.columns import Json, Moment, Str
from orchestrator.store.tables.conventions import RowId, metadata, one_of, sql_list

_HOLDS_MONEY = text("held_usd_micros > 0")
_UNFINISHED = text(f"state NOT IN ({sql_list(FINAL_JOB_STATES)})")

job_arrays = Table(
    "job_arrays",
    metadata,
    Column("array_id", Str, primary_key=True),
    Column("team_id", Str, ForeignKey("teams.team_id"), nullable=False),
    Column("created_by", Str, nullable=False),
    Column("name", Str, nullable=False),
    Column("max_parallel", Integer),
    Column("created_at", Moment, nullable=False),
    CheckConstraint("max_parallel IS NULL OR max_parallel >= 1", name="max_parallel"),
    Index("ix_job_arrays_listing", "team_id", "created_at", "array_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Str, primary_key=True),
    Column("team_id", Str, ForeignKey("teams.team_id"), nullable=False),
    Column("created_by", Str, nullable=False),
    Column("spec", Json, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("model_name", Str, nullable=False),
    Column("training_file", Str, nullable=False),
    Column("validation_file", Str),
    Column("has_metadata", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Str, nullable=False),
    Column("phase", Str),
    Column("plan", Json),
    Column("footprints", Json),
    Column("estimate", Json),
    Column("total_steps", BigInteger),
    Column("current_step", BigInteger, nullable=False),
    Column("trained_tokens", BigInteger, nullable=False),
    Column("platform_failures", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_event_seq", BigInteger, nullable=False),
    Column("error_code", Str),
    Column("error_message", Str),
    Column("error_param", Str),
    Column("fine_tuned_model", Str),
    Column("result_files", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("queued_at", Moment),
    Column("not_before_at", Moment),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("cancel_requested_at", Moment),
    Column("pause_requested_at", Moment),
    Column("sweep_stage", Integer, nullable=False, server_default="0"),
    Column("model_revision", Str),
    Column("parent_id", Str),
    Column("parent", Json),
    Column("priority_class", Str, nullable=False, server_default="normal"),
    Column("rank", Float),
    Column("held_at", Moment),
    Column("array_id", Str),
    Column("preemptions", Json),
    Column("alternatives", Json),
    Column("held_usd_micros", BigInteger, nullable=False, server_default="0"),
    Column("claims", Json),
    one_of("state", JobState),
    CheckConstraint(
        f"(finished_at IS NOT NULL) = (state IN ({sql_list(FINAL_JOB_STATES)}))", name="finished_means_final"
    ),
    CheckConstraint("(error_code IS NULL) = (error_message IS NULL)", name="error"),
    CheckConstraint("state <> 'failed' OR error_code IS NOT NULL", name="failed_says_why"),
    CheckConstraint("state NOT IN ('queued', 'running') OR queued_at IS NOT NULL", name="queued"),
    CheckConstraint("current_step >= 0 AND trained_tokens >= 0 AND attempts >= 0", name="counts"),
    UniqueConstraint("job_id", "team_id"),
    Index("ix_jobs_listing", "team_id", "created_at", "job_id"),
    Index("ix_jobs_listing_all", "created_at", "job_id"),
    Index("ix_jobs_state", "state", "created_at"),
    Index(
        "ix_jobs_placeable",
        "priority",
        "queued_at",
        "job_id",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index("ix_jobs_training_file", "training_file", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    Index("ix_jobs_validation_file", "validation_file", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    Index("ix_jobs_parent_id", "parent_id", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    Index("ix_jobs_array_id", "array_id"),
    Index("ix_jobs_held_usd", "team_id", sqlite_where=_HOLDS_MONEY, postgresql_where=_HOLDS_MONEY),
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", Str, ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("key", Str, primary_key=True),
    Column("value", Str, nullable=False),
    Index("ix_job_metadata_pair", "key", "value", "job_id"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", Str, ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Str, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("level", Str, nullable=False),
    Column("message", Str, nullable=False),
    Column("type", Str, nullable=False),
    Column("data", Json),
    one_of("level", ("info", "warn", "error")),
)


job_logs = Table(
    "job_logs",
    metadata,
    Column("log_id", RowId, primary_key=True),
    Column("job_id", Str, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("attempt_id", Str, nullable=False),
    Column("attempt_number", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at", Moment, nullable=False),
    Column("stream", Str, nullable=False),
    Column("level", Str, nullable=False),
    Column("text", Str, nullable=False),
    UniqueConstraint("attempt_id", "seq"),
    Index("ix_job_logs_job", "job_id", "log_id"),
    sqlite_autoincrement=True,
)

job_metrics = Table(
    "job_metrics",
    metadata,
    Column("metric_id", RowId, primary_key=True),
    Column("job_id", Str, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("attempt_id", Str, nullable=False),
    Column("attempt_number", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at", Moment, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("values", Json, nullable=False),
    UniqueConstraint("attempt_id", "seq"),
    Index("ix_job_metrics_job", "job_id", "metric_id"),
    sqlite_autoincrement=True,
)
