"""Jobs that go on from an adapter or a checkpoint."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = ("model_revision", "parent_id", "parent")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("jobs", sa.Column(name, sa.Text(), nullable=True))
    unfinished = sa.text("state NOT IN ('cancelled', 'failed', 'succeeded')")
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"], sqlite_where=unfinished, postgresql_where=unfinished)


def downgrade() -> None:
    op.drop_index("ix_jobs_parent_id", "jobs")
    for name in reversed(COLUMNS):
        op.drop_column("jobs", name)
