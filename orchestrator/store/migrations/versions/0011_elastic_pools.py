"""Since when devices are there, what the pool lacks, and nodes that the pool itself has put to rest.

Before this no spell is known, so no idle time is reported for it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.add_column("nodes", sa.Column("automatic", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("nodes", sa.Column("changed_at", MOMENT, nullable=True))
    op.create_table(
        "device_spells",
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("since_at", MOMENT, nullable=False),
        sa.Column("until_at", MOMENT, nullable=False),
        sa.Column("device_type", sa.Text(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.CheckConstraint("until_at >= since_at", name=op.f("ck_device_spells_spell")),
        sa.PrimaryKeyConstraint("device_id", "since_at", name=op.f("pk_device_spells")),
    )
    op.create_index(op.f("ix_device_spells_until_at"), "device_spells", ["until_at"])
    op.create_table(
        "lacks",
        sa.Column("device_type", sa.Text(), nullable=False),
        sa.Column("usable_bytes", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("together", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("groups", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.CheckConstraint("together > 0 AND groups > 0", name=op.f("ck_lacks_devices")),
        sa.PrimaryKeyConstraint("device_type", "usable_bytes", "together", name=op.f("pk_lacks")),
    )


def downgrade() -> None:
    op.drop_table("lacks")
    op.drop_table("device_spells")
    with op.batch_alter_table("nodes") as table:
        table.drop_column("changed_at")
        table.drop_column("automatic")
