"""Devices that waiting jobs would need beyond those that there are: what the scheduler last said, replaced whole."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, insert, select

from orchestrator.domain.scheduling.demand import Lack
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.pool import lacks


def list_lacks(tx: ReadTx) -> list[Lack]:
    """By device type, size, and how many belong together."""
    order = (lacks.c.device_type, lacks.c.usable_bytes, lacks.c.together)
    return [Lack(**row) for row in tx.rows(select(lacks).order_by(*order))]


def record_lacks(tx: WriteTx, found: Sequence[Lack]) -> None:
    """What is as before is not written again."""
    if list(found) == list_lacks(tx):
        return
    tx.execute(delete(lacks))
    if found:
        tx.execute(insert(lacks).values([asdict(lack) for lack in found]))
