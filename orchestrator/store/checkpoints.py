"""Complete checkpoints. A row is written only when the manifest, which is uploaded last, was reported."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import RowMapping, delete, func, select

from orchestrator.domain.artifacts import Checkpoint
from orchestrator.domain.pages import Page
from orchestrator.domain.protocol import StoredFile
from orchestrator.store.jobs import find_continuing
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import checkpoints


def insert_checkpoint(tx: WriteTx, checkpoint: Checkpoint) -> Checkpoint:
    """Store it; the same step of the same attempt again returns what is stored."""
    statement = tx.insert(checkpoints).values(
        checkpoint_id=checkpoint.checkpoint_id,
        job_id=checkpoint.job_id,
        attempt_id=checkpoint.attempt_id,
        attempt_number=checkpoint.attempt_number,
        step=checkpoint.step,
        key_prefix=checkpoint.key_prefix,
        files=[file.model_dump(mode="json") for file in checkpoint.files],
        metrics=checkpoint.metrics,
        created_at=checkpoint.created_at,
    )
    tx.execute(statement.on_conflict_do_nothing(index_elements=["attempt_id", "step"]))
    row = tx.row(
        select(checkpoints).where(
            checkpoints.c.attempt_id == checkpoint.attempt_id, checkpoints.c.step == checkpoint.step
        )
    )
    assert row is not None
    return _checkpoint(row)


def list_checkpoints(tx: ReadTx, job_id: str, *, limit: int = 10, after: str | None = None) -> Page[Checkpoint]:
    """Newest first."""
    listing = Listing(
        table=checkpoints,
        key=checkpoints.c.checkpoint_id,
        order_by=(checkpoints.c.created_at, checkpoints.c.checkpoint_id),
        where=(checkpoints.c.job_id == job_id,),
    )
    return read_page(tx, listing, _checkpoint, limit=limit, after=after)


def find_latest(tx: ReadTx, job_id: str) -> Checkpoint | None:
    """The one that is furthest in training; of the same step, the later attempt's."""
    query = select(checkpoints).where(checkpoints.c.job_id == job_id)
    row = tx.row(query.order_by(checkpoints.c.step.desc(), checkpoints.c.attempt_number.desc()).limit(1))
    return None if row is None else _checkpoint(row)


def find_at_step(tx: ReadTx, job_id: str, step: int) -> Checkpoint | None:
    """Of several attempts' the latest one's."""
    query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.step == step)
    row = tx.row(query.order_by(checkpoints.c.attempt_number.desc()).limit(1))
    return None if row is None else _checkpoint(row)


def lock_checkpoint(tx: WriteTx, checkpoint_id: str) -> bool:
    """Whether it is there; if so it is not deleted until the transaction ends."""
    query = select(checkpoints.c.checkpoint_id).where(checkpoints.c.checkpoint_id == checkpoint_id)
    return tx.row(query.with_for_update(read=True)) is not None


def find_newest_moment(tx: ReadTx, attempt_id: str) -> datetime | None:
    """When the attempt's newest checkpoint was stored: until then its work is kept."""
    moment: datetime | None = tx.scalar(
        select(func.max(checkpoints.c.created_at)).where(checkpoints.c.attempt_id == attempt_id)
    )
    return moment


def list_newest_moments(tx: ReadTx, attempt_ids: Collection[str]) -> dict[str, datetime]:
    """As `find_newest_moment`, for many; an attempt without a checkpoint is absent."""
    newest = func.max(checkpoints.c.created_at).label("newest")
    query = select(checkpoints.c.attempt_id, newest).where(checkpoints.c.attempt_id.in_(sorted(attempt_ids)))
    return {row["attempt_id"]: row["newest"] for row in tx.rows(query.group_by(checkpoints.c.attempt_id))}


def delete_checkpoint(tx: WriteTx, checkpoint_id: str) -> bool:
    """Forget one that is damaged or swept. Do so before its objects go.

    False when it stays, because an unfinished job goes on from it.
    """
    tx.row(select(checkpoints.c.checkpoint_id).where(checkpoints.c.checkpoint_id == checkpoint_id).with_for_update())
    if find_continuing(tx, checkpoint_id) is not None:
        return False
    tx.execute(delete(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id))
    return True


def _checkpoint(row: RowMapping) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=row["checkpoint_id"],
        job_id=row["job_id"],
        attempt_id=row["attempt_id"],
        attempt_number=row["attempt_number"],
        step=row["step"],
        key_prefix=row["key_prefix"],
        files=tuple(StoredFile.model_validate(file) for file in row["files"]),
        metrics={name: value for name, value in row["metrics"].items() if value is not None},
        created_at=row["created_at"],
    )
