"""A request's record holds the object that it made, from its first statement on."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = "idempotency_records"
CHECK = "response"
"""Its name without the prefix of the naming convention."""


def upgrade() -> None:
    op.execute(sa.text("DELETE FROM idempotency_records WHERE body IS NULL"))
    with op.batch_alter_table(TABLE) as table:
        table.drop_constraint(CHECK, type_="check")
        table.drop_column("status")
        table.alter_column("body", new_column_name="object_id", existing_type=sa.Text(), nullable=False)


def downgrade() -> None:
    with op.batch_alter_table(TABLE) as table:
        table.alter_column("object_id", new_column_name="body", existing_type=sa.Text(), nullable=True)
        table.add_column(sa.Column("status", sa.Integer(), nullable=True))
    op.execute(sa.text("UPDATE idempotency_records SET status = 200"))
    with op.batch_alter_table(TABLE) as table:
        table.create_check_constraint(CHECK, "(status IS NULL) = (body IS NULL)")
