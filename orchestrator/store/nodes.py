"""Nodes that take nothing new: cordoned ones, and those that are drained of what runs on them too."""

from sqlalchemy import RowMapping, select

from orchestrator.domain.pool import Node
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.pool import nodes


def list_nodes(tx: ReadTx) -> list[Node]:
    """Those that something was said about, by name."""
    return [_node(row) for row in tx.rows(select(nodes).order_by(nodes.c.node_name))]


def find_node(tx: ReadTx, node_name: str) -> Node | None:
    """None for one that nothing was ever said about."""
    row = tx.row(select(nodes).where(nodes.c.node_name == node_name))
    return None if row is None else _node(row)


def record_node(
    tx: WriteTx, node_name: str, *, cordoned: bool, draining: bool = False, automatic: bool = False
) -> Node:
    """A first moment stays when it is said again. Draining includes the cordon. `automatic` is said by the pool."""
    now, known = tx.now(), find_node(tx, node_name)
    cordoned_at = (known and known.cordoned_at) or now if cordoned or draining else None
    drain_at = (known and known.drain_requested_at) or now if draining else None
    values = {
        "cordoned_at": cordoned_at,
        "drain_requested_at": drain_at,
        "automatic": automatic,
        "changed_at": now,
    }
    statement = tx.insert(nodes).values(node_name=node_name, **values)
    row = tx.row(statement.on_conflict_do_update(index_elements=["node_name"], set_=values).returning(nodes))
    assert row is not None
    return _node(row)


def _node(row: RowMapping) -> Node:
    return Node(
        node_name=row["node_name"],
        cordoned_at=row["cordoned_at"],
        drain_requested_at=row["drain_requested_at"],
        automatic=row["automatic"],
        changed_at=row["changed_at"],
    )
