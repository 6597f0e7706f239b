"""Published adapters. The row comes last, in the transaction that ends the job: a row means complete and verified."""

from collections.abc import Collection

from sqlalchemy import RowMapping, delete, select, update

from orchestrator.domain.artifacts import Adapter
from orchestrator.domain.errors import ConflictError, NotFoundError
from orchestrator.domain.pages import Page
from orchestrator.domain.protocol import StoredFile
from orchestrator.store.jobs import find_continuing
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import adapters

_LIVE = adapters.c.deleted_at.is_(None)


def insert_adapter(tx: WriteTx, adapter: Adapter) -> Adapter:
    """Raises ConflictError when the job has an adapter already or the name is taken."""
    statement = tx.insert(adapters).values(
        adapter_id=adapter.adapter_id,
        name=adapter.name,
        job_id=adapter.job_id,
        team_id=adapter.team_id,
        attempt_id=adapter.attempt_id,
        base_model=adapter.base_model,
        key_prefix=adapter.key_prefix,
        files=[file.model_dump(mode="json") for file in adapter.files],
        manifest=adapter.manifest,
        created_at=adapter.created_at,
    )
    row = tx.row(statement.returning(adapters))
    assert row is not None
    return _adapter(row)


def get_adapter(tx: ReadTx, adapter_id: str, team_id: str | None) -> Adapter:
    query = select(adapters).where(adapters.c.adapter_id == adapter_id, _LIVE)
    row = tx.row(query if team_id is None else query.where(adapters.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such adapter: {adapter_id}")
    return _adapter(row)


def find_adapter_by_name(tx: ReadTx, name: str, team_id: str | None) -> Adapter | None:
    query = select(adapters).where(adapters.c.name == name, _LIVE)
    row = tx.row(query if team_id is None else query.where(adapters.c.team_id == team_id))
    return None if row is None else _adapter(row)


def lock_adapter(tx: WriteTx, adapter_id: str) -> bool:
    """Whether it is there; if so it is not deleted until the transaction ends."""
    query = select(adapters.c.adapter_id).where(adapters.c.adapter_id == adapter_id, _LIVE)
    return tx.row(query.with_for_update(read=True)) is not None


def find_adapter_of_job(tx: ReadTx, job_id: str) -> Adapter | None:
    row = tx.row(select(adapters).where(adapters.c.job_id == job_id, _LIVE))
    return None if row is None else _adapter(row)


def list_adapters_of(tx: ReadTx, job_ids: Collection[str]) -> dict[str, Adapter]:
    """Each job's adapter; a job without one is absent."""
    query = select(adapters).where(adapters.c.job_id.in_(sorted(job_ids)), _LIVE)
    return {row["job_id"]: _adapter(row) for row in tx.rows(query)}


def list_adapters(tx: ReadTx, team_id: str | None, *, limit: int = 20, after: str | None = None) -> Page[Adapter]:
    """Newest first."""
    listing = Listing(
        table=adapters,
        key=adapters.c.adapter_id,
        order_by=(adapters.c.created_at, adapters.c.adapter_id),
        where=(_LIVE,) if team_id is None else (_LIVE, adapters.c.team_id == team_id),
    )
    return read_page(tx, listing, _adapter, limit=limit, after=after)


def mark_deleted(tx: WriteTx, adapter_id: str, team_id: str | None = None) -> Adapter:
    """Hide it; its row stays until its objects are swept. Raises NotFoundError, also when it is hidden already.

    Raises ConflictError (model_in_use) while an unfinished job goes on from it; this row's lock and `lock_adapter`'s
    exclude each other.
    """
    statement = update(adapters).where(adapters.c.adapter_id == adapter_id, _LIVE)
    if team_id is not None:
        statement = statement.where(adapters.c.team_id == team_id)
    row = tx.row(statement.values(deleted_at=tx.now()).returning(adapters))
    if row is None:
        raise NotFoundError(f"No such adapter: {adapter_id}")
    if (job_id := find_continuing(tx, adapter_id)) is not None:
        raise ConflictError(f"Job {job_id} continues from {row['name']} and has not ended.", code="model_in_use")
    return _adapter(row)


def list_deleted(tx: ReadTx, limit: int) -> list[Adapter]:
    """Hidden adapters whose objects may be swept."""
    query = select(adapters).where(adapters.c.deleted_at.is_not(None)).order_by(adapters.c.deleted_at)
    return [_adapter(row) for row in tx.rows(query.limit(limit))]


def delete_adapter_row(tx: WriteTx, adapter_id: str) -> None:
    """Forget a hidden adapter whose objects are gone. Safe to repeat."""
    tx.execute(delete(adapters).where(adapters.c.adapter_id == adapter_id, adapters.c.deleted_at.is_not(None)))


def _adapter(row: RowMapping) -> Adapter:
    return Adapter(
        adapter_id=row["adapter_id"],
        name=row["name"],
        job_id=row["job_id"],
        team_id=row["team_id"],
        attempt_id=row["attempt_id"],
        base_model=row["base_model"],
        key_prefix=row["key_prefix"],
        files=tuple(StoredFile.model_validate(file) for file in row["files"]),
        manifest=row["manifest"],
        created_at=row["created_at"],
    )
