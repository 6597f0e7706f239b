"""What ended attempts teach, and how a running one spends its time."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXTS = ("attempt_id", "job_id", "team_id", "base_model", "family", "method", "quantization")
FLAGS = ("succeeded", "out_of_memory", "resumed")
COUNTS = (
    "reserved_bytes",
    "measured_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_device_bytes",
    "steps",
    "trained_tokens",
    "seen_tokens",
)
INDEXES = {
    "newest": ["ended_at", "attempt_id"],
    "device": ["device_type", "ended_at"],
    "family": ["family", "quantization", "device_type", "ended_at"],
    "kind": ["base_model", "method", "quantization", "length_tokens", "device_type", "ended_at"],
}


def upgrade() -> None:
    op.add_column("attempts", sa.Column("pace", sa.Text(), nullable=True))
    op.create_table(
        "observations",
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS),
        sa.Column("length_tokens", sa.Integer(), nullable=False),
        sa.Column("device_type", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite"), nullable=False),
        sa.Column("estimator", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in FLAGS),
        sa.Column("predicted_bytes", sa.BigInteger(), nullable=True),
        sa.Column("told_bytes", sa.BigInteger(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.Column("predicted_seconds", sa.Text(), nullable=False),
        sa.Column("phase_seconds", sa.Text(), nullable=False),
        sa.Column("told_seconds", sa.Float(), nullable=True),
        sa.Column("run_seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_observations"),
        sa.ForeignKeyConstraint(
            ["attempt_id", "job_id", "team_id"],
            ["attempts.attempt_id", "attempts.job_id", "attempts.team_id"],
            name="fk_observations_attempt_id_job_id_team_id",
        ),
        sa.CheckConstraint(
            "measured_bytes >= 0 AND steps >= 0 AND run_seconds >= 0", name=op.f("ck_observations_measured")
        ),
    )
    for name, columns in INDEXES.items():
        op.create_index(f"ix_observations_{name}", "observations", columns)


def downgrade() -> None:
    op.drop_table("observations")
    op.drop_column("attempts", "pace")
