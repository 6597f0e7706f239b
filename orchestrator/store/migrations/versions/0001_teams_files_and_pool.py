"""Teams, files and the pool."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "base_models",
    "clock",
    "devices",
    "leadership",
    "prices",
    "teams",
    "api_keys",
    "files",
    "uploads",
    "idempotency_records",
    "upload_parts",
)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str, *, nullable: bool = False, server_default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable, server_default=server_default, autoincrement=False)


def _big(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable, autoincrement=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    """Microseconds since 1970 on SQLite."""
    return sa.Column(name, sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite"), nullable=nullable)


def upgrade() -> None:
    _create_base_models()
    _create_clock()
    _create_devices()
    _create_leadership()
    _create_prices()
    _create_teams()
    _create_api_keys()
    _create_files()
    _create_uploads()
    _create_idempotency_records()
    _create_upload_parts()
    start = "0" if op.get_bind().dialect.name == "sqlite" else "'1970-01-01T00:00:00Z'"
    op.execute(f"INSERT INTO clock (clock_id, latest_at) VALUES (1, {start})")  # noqa: S608 - constants


def downgrade() -> None:
    for name in reversed(TABLES):
        op.drop_table(name)


def _create_base_models() -> None:
    op.create_table(
        "base_models",
        _text("name"),
        _text("source"),
        _text("location"),
        _text("revision"),
        _text("facts"),
        _text("files"),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("name", name="pk_base_models"),
        sa.CheckConstraint("source IN ('hub', 'path', 's3')", name=op.f("ck_base_models_source")),
    )


def _create_clock() -> None:
    op.create_table(
        "clock",
        _integer("clock_id"),
        _moment("latest_at"),
        sa.PrimaryKeyConstraint("clock_id", name="pk_clock"),
        sa.CheckConstraint("clock_id = 1", name=op.f("ck_clock_single")),
    )


def _create_devices() -> None:
    op.create_table(
        "devices",
        _text("device_id"),
        _text("node_name"),
        _text("device_type"),
        _text("kind"),
        _integer("device_index"),
        _big("usable_bytes"),
        _flag("online"),
        _moment("seen_at"),
        sa.PrimaryKeyConstraint("device_id", name="pk_devices"),
        sa.CheckConstraint("kind IN ('cpu', 'cuda')", name=op.f("ck_devices_kind")),
        sa.CheckConstraint("usable_bytes >= 0", name=op.f("ck_devices_usable")),
    )


def _create_leadership() -> None:
    op.create_table(
        "leadership",
        _text("role"),
        _text("owner"),
        _moment("expires_at"),
        sa.PrimaryKeyConstraint("role", name="pk_leadership"),
    )


def _create_prices() -> None:
    op.create_table(
        "prices",
        _text("device_type"),
        _integer("version"),
        _big("usd_micros_per_hour"),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("device_type", "version", name="pk_prices"),
        sa.CheckConstraint("usd_micros_per_hour >= 0", name=op.f("ck_prices_price")),
    )


def _create_teams() -> None:
    op.create_table(
        "teams",
        _text("team_id"),
        _text("name"),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("team_id", name="pk_teams"),
        sa.UniqueConstraint("name", name="uq_teams_name"),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        _text("key_id"),
        _text("team_id"),
        _text("name"),
        _text("role"),
        _text("prefix"),
        _text("secret_sha256"),
        _moment("created_at"),
        _moment("expires_at", nullable=True),
        _moment("revoked_at", nullable=True),
        _moment("last_used_at", nullable=True),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.UniqueConstraint("secret_sha256", name="uq_api_keys_secret_sha256"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.team_id"], name="fk_api_keys_team_id"),
        sa.CheckConstraint("role IN ('admin', 'member', 'viewer')", name=op.f("ck_api_keys_role")),
    )
    op.create_index("ix_api_keys_team_id", "api_keys", ["team_id"])


def _create_files() -> None:
    op.create_table(
        "files",
        _text("file_id"),
        _text("team_id"),
        _moment("created_at"),
        _text("filename"),
        _text("purpose"),
        _big("size_bytes"),
        _text("sha256"),
        _text("status"),
        _text("status_details", nullable=True),
        _text("report", nullable=True),
        _moment("expires_at", nullable=True),
        _text("object_key"),
        _moment("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("file_id", name="pk_files"),
        sa.UniqueConstraint("object_key", name="uq_files_object_key"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.team_id"], name="fk_files_team_id"),
        sa.CheckConstraint("purpose IN ('fine-tune', 'fine-tune-results')", name=op.f("ck_files_purpose")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_files_size")),
        sa.CheckConstraint("status IN ('error', 'processed', 'uploaded')", name=op.f("ck_files_status")),
    )
    op.create_index("ix_files_deleted_at", "files", ["deleted_at"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_index("ix_files_listing", "files", ["team_id", "created_at", "file_id"])


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        _text("upload_id"),
        _text("team_id"),
        _moment("created_at"),
        _moment("expires_at"),
        _text("filename"),
        _text("mime_type"),
        _text("purpose"),
        _big("size_bytes"),
        _text("status"),
        _text("file_id", nullable=True),
        _big("file_expires_after_seconds", nullable=True),
        sa.PrimaryKeyConstraint("upload_id", name="pk_uploads"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.team_id"], name="fk_uploads_team_id"),
        sa.CheckConstraint(
            "(status = 'completed') = (file_id IS NOT NULL)", name=op.f("ck_uploads_completed_has_file")
        ),
        sa.CheckConstraint("purpose IN ('fine-tune', 'fine-tune-results')", name=op.f("ck_uploads_purpose")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_uploads_size")),
        sa.CheckConstraint(
            "status IN ('cancelled', 'completed', 'expired', 'pending')", name=op.f("ck_uploads_status")
        ),
    )
    op.create_index("ix_uploads_expiry", "uploads", ["status", "expires_at"])


def _create_idempotency_records() -> None:
    op.create_table(
        "idempotency_records",
        _text("key_id"),
        _text("scope"),
        _text("idempotency_key"),
        _text("fingerprint"),
        _moment("created_at"),
        _integer("status", nullable=True),
        _text("body", nullable=True),
        sa.PrimaryKeyConstraint("key_id", "scope", "idempotency_key", name="pk_idempotency_records"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.key_id"], name="fk_idempotency_records_key_id"),
        sa.CheckConstraint("(status IS NULL) = (body IS NULL)", name=op.f("ck_idempotency_records_response")),
    )
    op.create_index("ix_idempotency_records_created_at", "idempotency_records", ["created_at"])
    op.create_index(
        "ix_idempotency_records_fingerprint", "idempotency_records", ["key_id", "scope", "fingerprint", "created_at"]
    )


def _create_upload_parts() -> None:
    op.create_table(
        "upload_parts",
        _text("part_id"),
        _text("upload_id"),
        _moment("created_at"),
        _big("size_bytes"),
        _text("object_key"),
        sa.PrimaryKeyConstraint("part_id", name="pk_upload_parts"),
        sa.UniqueConstraint("object_key", name="uq_upload_parts_object_key"),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.upload_id"], name="fk_upload_parts_upload_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_upload_parts_size")),
    )
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])
