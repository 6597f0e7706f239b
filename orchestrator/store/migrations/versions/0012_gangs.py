"""An attempt may hold several devices, each with ledger entries of its own. Those that are there have one."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("more_devices", sa.Text(), nullable=True))
    op.add_column("ledger_entries", sa.Column("device_id", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("ledger_entries") as table:
        table.drop_column("device_id")
    with op.batch_alter_table("attempts") as table:
        table.drop_column("more_devices")
