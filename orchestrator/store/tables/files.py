"""What users bring: files, uploads in parts, base models."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Table

from orchestrator.domain.artifacts import FilePurpose, FileStatus, UploadStatus
from orchestrator.domain.models import ModelSourceKind
from orchestrator.store.columns import Json, Moment, Str
from orchestrator.store.tables.conventions import metadata, one_of

files = Table(
    "files",
    metadata,
    Column("file_id", Str, primary_key=True),
    Column("team_id", Str, ForeignKey("teams.team_id"), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("filename", Str, nullable=False),
    Column("purpose", Str, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    CheckConstraint("size_bytes >= 0", name="size"),
    Column("sha256", Str, nullable=False),
    Column("status", Str, nullable=False),
    Column("status_details", Str),
    Column("report", Json),
    Column("expires_at", Moment, index=True),
    Column("object_key", Str, nullable=False, unique=True),
    Column("deleted_at", Moment, index=True),
    one_of("purpose", FilePurpose),
    one_of("status", FileStatus),
    Index("ix_files_listing", "team_id", "created_at", "file_id"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", Str, primary_key=True),
    Column("team_id", Str, ForeignKey("teams.team_id"), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("filename", Str, nullable=False),
    Column("mime_type", Str, nullable=False),
    Column("purpose", Str, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    CheckConstraint("size_bytes >= 0", name="size"),
    Column("status", Str, nullable=False),
    Column("file_id", Str),
    Column("file_expires_after_seconds", BigInteger),
    one_of("purpose", FilePurpose),
    one_of("status", UploadStatus),
    CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="completed_has_file"),
    Index("ix_uploads_expiry", "status", "expires_at"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("part_id", Str, primary_key=True),
    Column("upload_id", Str, ForeignKey("uploads.upload_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Moment, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    CheckConstraint("size_bytes >= 0", name="size"),
    Column("object_key", Str, nullable=False, unique=True),
)

base_models = Table(
    "base_models",
    metadata,
    Column("name", Str, primary_key=True),
    Column("source", Str, nullable=False),
    Column("location", Str, nullable=False),
    Column("revision", Str, nullable=False),
    Column("facts", Json, nullable=False),
    Column("files", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("config", Json),
    one_of("source", ModelSourceKind),
)
