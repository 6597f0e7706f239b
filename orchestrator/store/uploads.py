"""Uploads in parts, until they become a file."""

from collections.abc import Iterable

from sqlalchemy import RowMapping, delete, select, update

from orchestrator.domain.artifacts import FilePurpose, Upload, UploadPart, UploadStatus
from orchestrator.domain.errors import IllegalTransitionError, NotFoundError
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.files import upload_parts, uploads


def insert_upload(tx: WriteTx, upload: Upload) -> Upload:
    """`created_at` and `expires_at` are kept as given: count them from `tx.now()`."""
    statement = tx.insert(uploads).values(
        upload_id=upload.upload_id,
        team_id=upload.team_id,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        mime_type=upload.mime_type,
        purpose=upload.purpose,
        size_bytes=upload.size_bytes,
        status=upload.status,
        file_id=upload.file_id,
        file_expires_after_seconds=upload.file_expires_after_seconds,
    )
    row = tx.row(statement.returning(uploads))
    assert row is not None
    return _upload(row)


def get_upload(tx: ReadTx, upload_id: str, team_id: str | None) -> Upload:
    query = select(uploads).where(uploads.c.upload_id == upload_id)
    row = tx.row(query if team_id is None else query.where(uploads.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such upload: {upload_id}")
    return _upload(row)


def insert_part(tx: WriteTx, part: UploadPart) -> UploadPart:
    """Raises IllegalTransitionError unless the upload is pending and not expired."""
    open_ = select(uploads.c.upload_id).where(
        uploads.c.upload_id == part.upload_id,
        uploads.c.status == UploadStatus.PENDING,
        uploads.c.expires_at > tx.now(),
    )
    if tx.row(open_.with_for_update()) is None:
        raise IllegalTransitionError(f"Upload {part.upload_id} takes no more parts.")
    statement = tx.insert(upload_parts).values(
        part_id=part.part_id,
        upload_id=part.upload_id,
        created_at=part.created_at,
        size_bytes=part.size_bytes,
        object_key=part.object_key,
    )
    row = tx.row(statement.returning(upload_parts))
    assert row is not None
    return _part(row)


def get_part(tx: ReadTx, part_id: str, upload_id: str) -> UploadPart:
    row = tx.row(select(upload_parts).where(upload_parts.c.part_id == part_id, upload_parts.c.upload_id == upload_id))
    if row is None:
        raise NotFoundError(f"No such part of this upload: {part_id}")
    return _part(row)


def list_parts(tx: ReadTx, upload_id: str) -> list[UploadPart]:
    """In the order in which they arrived."""
    query = select(upload_parts).where(upload_parts.c.upload_id == upload_id)
    return [_part(row) for row in tx.rows(query.order_by(upload_parts.c.created_at, upload_parts.c.part_id))]


def list_leftover_parts(tx: ReadTx, limit: int) -> list[UploadPart]:
    """Parts of uploads that ended: nobody reads them any more."""
    ended = select(uploads.c.upload_id).where(uploads.c.status != UploadStatus.PENDING)
    query = select(upload_parts).where(upload_parts.c.upload_id.in_(ended)).order_by(upload_parts.c.part_id)
    return [_part(row) for row in tx.rows(query.limit(limit))]


def delete_part(tx: WriteTx, part_id: str) -> None:
    """Forget a part whose object is gone. Safe to repeat."""
    tx.execute(delete(upload_parts).where(upload_parts.c.part_id == part_id))


def apply_upload_status(
    tx: WriteTx,
    upload_id: str,
    *,
    from_: Iterable[UploadStatus],
    to: UploadStatus,
    file_id: str | None = None,
) -> Upload:
    """Raises IllegalTransitionError when the upload is in none of the states `from_`."""
    statement = update(uploads).where(uploads.c.upload_id == upload_id, uploads.c.status.in_(list(from_)))
    row = tx.row(statement.values(status=to, file_id=file_id).returning(uploads))
    if row is None:
        raise IllegalTransitionError(f"Upload {upload_id} cannot become {to}.")
    return _upload(row)


def list_expired(tx: ReadTx, limit: int = 100) -> list[Upload]:
    """Pending uploads whose time is over."""
    query = select(uploads).where(uploads.c.status == UploadStatus.PENDING, uploads.c.expires_at <= tx.now())
    return [_upload(row) for row in tx.rows(query.order_by(uploads.c.expires_at).limit(limit))]


def _upload(row: RowMapping) -> Upload:
    return Upload(
        upload_id=row["upload_id"],
        team_id=row["team_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        filename=row["filename"],
        mime_type=row["mime_type"],
        purpose=FilePurpose(row["purpose"]),
        size_bytes=row["size_bytes"],
        status=UploadStatus(row["status"]),
        file_id=row["file_id"],
        file_expires_after_seconds=row["file_expires_after_seconds"],
    )


def _part(row: RowMapping) -> UploadPart:
    return UploadPart(
        part_id=row["part_id"],
        upload_id=row["upload_id"],
        created_at=row["created_at"],
        size_bytes=row["size_bytes"],
        object_key=row["object_key"],
    )
