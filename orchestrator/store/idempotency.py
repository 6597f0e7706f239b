"""Which requests were carried out already, and what they made.

A record is inserted in the transaction that makes the object; the primary key lets one of several through.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, select

from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.accounts import idempotency_records as records


@dataclass(frozen=True, kw_only=True)
class IdempotencyRecord:
    """`fingerprint` is a hash of the request."""

    key_id: str
    scope: str
    idempotency_key: str
    fingerprint: str
    created_at: datetime
    object_id: str


def find_record(tx: ReadTx, *, key_id: str, scope: str, idempotency_key: str) -> IdempotencyRecord | None:
    row = tx.row(select(records).where(*_named(key_id, scope, idempotency_key)))
    return None if row is None else _record(row)


def record_request(tx: WriteTx, record: IdempotencyRecord) -> IdempotencyRecord | None:
    """None: the record is stored, and the object to be made. Otherwise the record of the request that came first."""
    statement = tx.insert(records).values(asdict(record))
    won = statement.on_conflict_do_nothing(index_elements=["key_id", "scope", "idempotency_key"])
    if tx.row(won.returning(records.c.key_id)) is not None:
        return None
    return find_record(tx, key_id=record.key_id, scope=record.scope, idempotency_key=record.idempotency_key)


def find_recent_by_fingerprint(
    tx: ReadTx, *, key_id: str, scope: str, fingerprint: str, since: datetime
) -> IdempotencyRecord | None:
    """The newest record of the same request, under any idempotency key, made at or after `since`."""
    query = select(records).where(
        records.c.key_id == key_id,
        records.c.scope == scope,
        records.c.fingerprint == fingerprint,
        records.c.created_at >= since,
    )
    row = tx.row(query.order_by(records.c.created_at.desc()).limit(1))
    return None if row is None else _record(row)


def delete_older(tx: WriteTx, before: datetime) -> int:
    return tx.execute(delete(records).where(records.c.created_at < before))


def _named(key_id: str, scope: str, idempotency_key: str) -> tuple[ColumnElement[bool], ...]:
    return (records.c.key_id == key_id, records.c.scope == scope, records.c.idempotency_key == idempotency_key)


def _record(row: RowMapping) -> IdempotencyRecord:
    values: dict[str, Any] = dict(row)
    return IdempotencyRecord(**values)
