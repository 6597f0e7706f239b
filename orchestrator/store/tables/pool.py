"""Devices, their prices, who leads, and the clock."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Integer, Table

from orchestrator.store.columns import Json, Moment, Str
from orchestrator.store.tables.conventions import metadata, one_of

prices = Table(
    "prices",
    metadata,
    Column("device_type", Str, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("usd_micros_per_hour", BigInteger, nullable=False),
    CheckConstraint("usd_micros_per_hour >= 0", name="price"),
    Column("created_at", Moment, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", Str, primary_key=True),
    Column("node_name", Str, nullable=False),
    Column("device_type", Str, nullable=False),
    Column("kind", Str, nullable=False),
    Column("device_index", Integer, nullable=False),
    Column("usable_bytes", BigInteger, nullable=False),
    CheckConstraint("usable_bytes >= 0", name="usable"),
    Column("online", Boolean, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("speed", Json),
    one_of("kind", ("cpu", "cuda")),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_name", Str, primary_key=True),
    Column("cordoned_at", Moment),
    Column("drain_requested_at", Moment),
    CheckConstraint("drain_requested_at IS NULL OR cordoned_at IS NOT NULL", name="drain"),
)

leadership = Table(
    "leadership",
    metadata,
    Column("role", Str, primary_key=True),
    Column("owner", Str, nullable=False),
    Column("expires_at", Moment, nullable=False),
)


clock = Table(
    "clock",
    metadata,
    Column("clock_id", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("clock_id = 1", name="single"),
    Column("latest_at", Moment, nullable=False),
)
