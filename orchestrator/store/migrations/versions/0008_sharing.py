"""Sharing the pool: what teams were promised, how jobs queue, preemption, cordoned nodes, and who changed what."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS: Mapping[str, Sequence[tuple[str, sa.types.TypeEngine[Any], str | None]]] = {
    "teams": (
        ("guarantee_micros", sa.BigInteger(), "0"),
        ("ceiling_micros", sa.BigInteger(), None),
        ("weight_millis", sa.BigInteger(), "1000"),
        ("budget_usd_micros", sa.BigInteger(), None),
        ("budget_period", sa.Text(), "month"),
        ("when_exhausted", sa.Text(), "wait"),
        ("usage", sa.Float(), "0"),
        ("usage_at", MOMENT, None),
    ),
    "jobs": (
        ("priority_class", sa.Text(), "normal"),
        ("rank", sa.Float(), None),
        ("held_at", MOMENT, None),
        ("array_id", sa.Text(), None),
        ("preemptions", sa.Text(), None),
        ("alternatives", sa.Text(), None),
        ("held_usd_micros", sa.BigInteger(), "0"),
        ("claims", sa.Text(), None),
    ),
    "attempts": (
        ("preempt_rule", sa.Text(), None),
        ("preempted_for", sa.Text(), None),
        ("grace_ends_at", MOMENT, None),
        ("rate_micros", sa.BigInteger(), "0"),
        ("runs_as", sa.Text(), None),
    ),
}
"""By table: name, type, and the default of a column that is never NULL."""


def upgrade() -> None:
    _create_tables()
    for table, columns in COLUMNS.items():
        for name, kind, default in columns:
            op.add_column(table, sa.Column(name, kind, nullable=default is None, server_default=default))
    holds = sa.text("held_usd_micros > 0")
    op.create_index("ix_jobs_array_id", "jobs", ["array_id"])
    op.create_index("ix_jobs_held_usd", "jobs", ["team_id"], sqlite_where=holds, postgresql_where=holds)


def _create_tables() -> None:
    op.create_table(
        "job_arrays",
        sa.Column("array_id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_parallel", sa.Integer(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("array_id", name="pk_job_arrays"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.team_id"], name="fk_job_arrays_team_id"),
        sa.CheckConstraint("max_parallel IS NULL OR max_parallel >= 1", name=op.f("ck_job_arrays_max_parallel")),
    )
    op.create_index("ix_job_arrays_listing", "job_arrays", ["team_id", "created_at", "array_id"])
    op.create_table(
        "nodes",
        sa.Column("node_name", sa.Text(), nullable=False),
        sa.Column("cordoned_at", MOMENT, nullable=True),
        sa.Column("drain_requested_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("node_name", name="pk_nodes"),
        sa.CheckConstraint("drain_requested_at IS NULL OR cordoned_at IS NOT NULL", name=op.f("ck_nodes_drain")),
    )
    op.create_table(
        "audit_entries",
        sa.Column("audit_id", ROW_ID, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("key_id", "team_id", "action", "subject")),
        sa.Column("data", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("audit_id", name="pk_audit_entries"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_entries_team", "audit_entries", ["team_id", "audit_id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_held_usd", "jobs")
    op.drop_index("ix_jobs_array_id", "jobs")
    for table, columns in COLUMNS.items():
        for name, _, _ in reversed(columns):
            op.drop_column(table, name)
    op.drop_table("audit_entries")
    op.drop_table("nodes")
    op.drop_table("job_arrays")
