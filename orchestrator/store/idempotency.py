"""Which requests were carried out already, and what was answered.

The record is claimed in its own transaction before the work, or in the work's transaction; either way the primary key
lets one claimant through. `status` and `body` are None while the first request runs.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, select, update

from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.accounts import idempotency_records as records


@dataclass(frozen=True, kw_only=True)
class IdempotencyRecord:
    """`fingerprint` is a hash of the request; `body` is the answer's text, exactly as it was sent."""

    key_id: str
    scope: str
    idempotency_key: str
    fingerprint: str
    created_at: datetime
    status: int | None
    body: str | None


def find_record(tx: ReadTx, *, key_id: str, scope: str, idempotency_key: str) -> IdempotencyRecord | None:
    row = tx.row(select(records).where(*_named(key_id, scope, idempotency_key)))
    return None if row is None else _record(row)


def claim_record(
    tx: WriteTx, *, key_id: str, scope: str, idempotency_key: str, fingerprint: str
) -> IdempotencyRecord | None:
    """None: the claim is ours. Otherwise the record of the request that came first, committed or finished."""
    statement = tx.insert(records).values(
        key_id=key_id, scope=scope, idempotency_key=idempotency_key, fingerprint=fingerprint, created_at=tx.now()
    )
    won = tx.row(
        statement.on_conflict_do_nothing(index_elements=["key_id", "scope", "idempotency_key"]).returning(
            records.c.key_id
        )
    )
    if won is not None:
        return None
    return find_record(tx, key_id=key_id, scope=scope, idempotency_key=idempotency_key)


def record_response(tx: WriteTx, *, key_id: str, scope: str, idempotency_key: str, status: int, body: str) -> None:
    """Keep the answer for repeats."""
    statement = update(records).where(*_named(key_id, scope, idempotency_key))
    tx.execute(statement.values(status=status, body=body))


def release_record(tx: WriteTx, *, key_id: str, scope: str, idempotency_key: str) -> None:
    """Give up a claim without an answer, so that a repeat carries the request out."""
    tx.execute(delete(records).where(*_named(key_id, scope, idempotency_key), records.c.status.is_(None)))


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
