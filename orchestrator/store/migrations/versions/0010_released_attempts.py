"""Who held devices lately is found by when they were given back."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_attempts_released", "attempts", ["released_at"])


def downgrade() -> None:
    op.drop_index("ix_attempts_released", table_name="attempts")
