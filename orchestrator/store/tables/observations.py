"""What ended attempts teach: what was predicted and what was measured, by the kind of job."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Float, Index, Integer, Table

from orchestrator.store.columns import Json, Moment, Str
from orchestrator.store.tables.attempts import of_attempt
from orchestrator.store.tables.conventions import metadata

_KIND = ("base_model", "method", "quantization", "length_tokens", "device_type")

observations = Table(
    "observations",
    metadata,
    Column("attempt_id", Str, primary_key=True),
    Column("job_id", Str, nullable=False),
    Column("team_id", Str, nullable=False),
    Column("base_model", Str, nullable=False),
    Column("family", Str, nullable=False),
    Column("method", Str, nullable=False),
    Column("quantization", Str, nullable=False),
    Column("length_tokens", Integer, nullable=False),
    Column("device_type", Str, nullable=False),
    Column("ended_at", Moment, nullable=False),
    Column("estimator", Integer, nullable=False),
    Column("succeeded", Boolean, nullable=False),
    Column("out_of_memory", Boolean, nullable=False),
    Column("resumed", Boolean, nullable=False),
    Column("predicted_bytes", BigInteger),
    Column("told_bytes", BigInteger),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("measured_bytes", BigInteger, nullable=False),
    Column("peak_allocated_bytes", BigInteger, nullable=False),
    Column("peak_reserved_bytes", BigInteger, nullable=False),
    Column("peak_device_bytes", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
    Column("trained_tokens", BigInteger, nullable=False),
    Column("seen_tokens", BigInteger, nullable=False),
    Column("predicted_seconds", Json, nullable=False),
    Column("phase_seconds", Json, nullable=False),
    Column("told_seconds", Float),
    Column("run_seconds", Float, nullable=False),
    of_attempt(),
    CheckConstraint("measured_bytes >= 0 AND steps >= 0 AND run_seconds >= 0", name="measured"),
    Index("ix_observations_newest", "ended_at", "attempt_id"),
    Index("ix_observations_device", "device_type", "estimator", "ended_at"),
    Index("ix_observations_family", "family", "quantization", "device_type", "estimator", "ended_at"),
    Index("ix_observations_kind", *_KIND, "estimator", "ended_at"),
)
