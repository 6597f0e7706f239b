"""Devices, their prices, who leads, and the clock."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Integer, Table, false

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
    Column("automatic", Boolean, nullable=False, server_default=false()),
    Column("changed_at", Moment),
    CheckConstraint("drain_requested_at IS NULL OR cordoned_at IS NOT NULL", name="drain"),
)

device_spells = Table(
    "device_spells",
    metadata,
    Column("device_id", Str, primary_key=True),
    Column("since_at", Moment, primary_key=True),
    Column("until_at", Moment, nullable=False, index=True),
    Column("device_type", Str, nullable=False),
    Column("is_open", Boolean, nullable=False),
    CheckConstraint("until_at >= since_at", name="spell"),
)
"""When a device was there and took jobs, as far as surveys saw it. An open spell is what the next survey prolongs."""

lacks = Table(
    "lacks",
    metadata,
    Column("device_type", Str, primary_key=True),
    Column("usable_bytes", BigInteger, primary_key=True, autoincrement=False),
    Column("together", Integer, primary_key=True, autoincrement=False),
    Column("groups", Integer, nullable=False),
    Column("jobs", Integer, nullable=False),
    CheckConstraint("together > 0 AND groups > 0", name="devices"),
)
"""Devices that waiting jobs would need beyond those that there are, as the scheduler last said."""

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
