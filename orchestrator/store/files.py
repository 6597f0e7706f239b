"""Files of teams. A deleted file's row stays, unseen, until its object is swept."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, bindparam, delete, func, or_, select, update

from orchestrator.domain.artifacts import File, FilePurpose, FileStatus
from orchestrator.domain.errors import ConflictError, NotFoundError
from orchestrator.domain.pages import Page
from orchestrator.domain.states import FINAL_JOB_STATES
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.files import files
from orchestrator.store.tables.jobs import jobs

_LOCK = (
    select(files)
    .where(
        files.c.file_id.in_(bindparam("wanted", expanding=True)),
        files.c.team_id == bindparam("team"),
        files.c.deleted_at.is_(None),
        or_(files.c.expires_at.is_(None), files.c.expires_at > bindparam("now")),
    )
    .with_for_update(read=True)
)


def insert_file(tx: WriteTx, file: File) -> File:
    """Store a file whose object is complete. `created_at` is kept as given: use `tx.now()`."""
    statement = tx.insert(files).values(
        file_id=file.file_id,
        team_id=file.team_id,
        created_at=file.created_at,
        filename=file.filename,
        purpose=file.purpose,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        status=file.status,
        status_details=file.status_details,
        report=file.report,
        expires_at=file.expires_at,
        object_key=file.object_key,
    )
    row = tx.row(statement.returning(files))
    assert row is not None
    return _file(row)


def get_file(tx: ReadTx, file_id: str, team_id: str | None) -> File:
    file = find_file(tx, file_id, team_id)
    if file is None:
        raise NotFoundError(f"No such file: {file_id}")
    return file


def find_file(tx: ReadTx, file_id: str, team_id: str | None) -> File | None:
    """None also for a deleted or expired file, and for another team's."""
    row = tx.row(select(files).where(files.c.file_id == file_id, *_visible(tx.now(), team_id)))
    return None if row is None else _file(row)


def lock_files(tx: WriteTx, file_ids: Collection[str], team_id: str) -> dict[str, File]:
    """The team's live files among these, by id; they cannot be deleted until the transaction ends."""
    values = {"wanted": list(file_ids), "team": team_id, "now": tx.now()}
    return {row["file_id"]: _file(row) for row in tx.rows(_LOCK, values)}


def list_files(
    tx: ReadTx,
    *,
    team_id: str | None,
    purpose: FilePurpose | None = None,
    limit: int = 20,
    after: str | None = None,
    descending: bool = True,
) -> Page[File]:
    where = list(_visible(tx.now(), team_id))
    if purpose is not None:
        where.append(files.c.purpose == purpose)
    listing = Listing(table=files, key=files.c.file_id, order_by=(files.c.created_at, files.c.file_id), where=where)
    return read_page(tx, listing, _file, limit=limit, after=after, descending=descending)


def count_jobs_using(tx: ReadTx, file_id: str) -> int:
    """Unfinished jobs that train or validate on the file."""
    query = select(func.count()).where(
        or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id),
        jobs.c.state.not_in(FINAL_JOB_STATES),
    )
    return int(tx.scalar(query))


def mark_file_deleted(tx: WriteTx, file_id: str, team_id: str | None = None) -> None:
    """Hide the file. Raises NotFoundError, or ConflictError (file_in_use) while an unfinished job needs it.

    The row lock and that of `lock_files` make the two exclude each other.
    """
    now = tx.now()
    visible = select(files.c.file_id).where(files.c.file_id == file_id, *_visible(now, team_id))
    if tx.row(visible.with_for_update()) is None:
        raise NotFoundError(f"No such file: {file_id}")
    if count_jobs_using(tx, file_id):
        raise ConflictError(f"File {file_id} is in use by a job that has not ended.", code="file_in_use")
    tx.execute(update(files).where(files.c.file_id == file_id).values(deleted_at=now))


def record_file_report(
    tx: WriteTx, file_id: str, *, status: FileStatus, status_details: str | None, report: dict[str, object] | None
) -> None:
    """Store what validation found."""
    values = {"status": status, "status_details": status_details, "report": report}
    tx.execute(update(files).where(files.c.file_id == file_id).values(values))


def list_expired_or_deleted(tx: ReadTx, limit: int) -> list[File]:
    """Files whose objects may be swept: hidden, and needed by no unfinished job."""
    used = select(jobs.c.job_id).where(
        or_(jobs.c.training_file == files.c.file_id, jobs.c.validation_file == files.c.file_id),
        jobs.c.state.not_in(FINAL_JOB_STATES),
    )
    gone = or_(files.c.deleted_at.is_not(None), files.c.expires_at <= tx.now())
    query = select(files).where(gone, ~used.exists()).order_by(files.c.created_at).limit(limit)
    return [_file(row) for row in tx.rows(query)]


def delete_file_row(tx: WriteTx, file_id: str) -> None:
    """Forget a file whose object is gone. Safe to repeat."""
    tx.execute(delete(files).where(files.c.file_id == file_id))


def _visible(now: datetime, team_id: str | None) -> tuple[ColumnElement[bool], ...]:
    live = (files.c.deleted_at.is_(None), or_(files.c.expires_at.is_(None), files.c.expires_at > now))
    return live if team_id is None else (*live, files.c.team_id == team_id)


def _file(row: RowMapping) -> File:
    return File(
        file_id=row["file_id"],
        team_id=row["team_id"],
        created_at=row["created_at"],
        filename=row["filename"],
        purpose=FilePurpose(row["purpose"]),
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        status=FileStatus(row["status"]),
        status_details=row["status_details"],
        report=row["report"],
        expires_at=row["expires_at"],
        object_key=row["object_key"],
    )
