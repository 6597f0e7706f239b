"""Observations are read by the way that memory was predicted. Of those on GPUs so far nobody knows which it was."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEYS = {
    "device": ["device_type"],
    "family": ["family", "quantization", "device_type"],
    "kind": ["base_model", "method", "quantization", "length_tokens", "device_type"],
}


def upgrade() -> None:
    _index_by("estimator", "ended_at")
    # Only a GPU's allocator reports a count of its own. What is of no known estimator teaches nothing.
    op.execute("UPDATE observations SET estimator = 0 WHERE peak_reserved_bytes > 0")


def downgrade() -> None:
    _index_by("ended_at")


def _index_by(*order: str) -> None:
    for name, key in KEYS.items():
        op.drop_index(f"ix_observations_{name}", "observations")
        op.create_index(f"ix_observations_{name}", "observations", [*key, *order])
