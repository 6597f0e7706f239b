"""Each device to scale, with what jobs have reserved on it and what they use; nodes; the last day; the prices."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import Form, PageRoute
from api.dashboard.rendering import go_to, render, wants_fragment
from api.dashboard.views.devices import DeviceBar, show_devices
from api.dashboard.views.pool_history import History, show_history
from api.dependencies import Admin, NodeName, Pool, Reader, Wish
from api.schemas.pool import NodeOut, PoolHistoryOut, PriceOut
from orchestrator.domain.teams import Caller
from orchestrator.services.pool import Pool as PoolService

router = APIRouter(prefix="/pool", route_class=PageRoute)
HOURS = 24


@dataclass(frozen=True, kw_only=True)
class NodeRow:
    """A node with its devices; `said` is what an admin, or the pool itself, has said of it."""

    name: str
    devices: int
    online: bool
    jobs: int
    said: NodeOut | None

    @property
    def wishes(self) -> tuple[str, ...]:
        """What may be asked of it now."""
        if self.said is None:
            return ("cordon", "drain")
        return ("uncordon",) if self.said.drain_requested_at else ("uncordon", "drain")


@router.get("")
def show_pool(request: Request, caller: Reader, pool: Pool) -> Response:
    values = _describe(caller, pool)
    if wants_fragment(request):
        return render(request, "parts/pool.html", values)
    return render(request, "pool.html", {**values, "history": _read_history(caller, pool, values["devices"])})


@router.get("/history")
def show_pool_history(request: Request, caller: Reader, pool: Pool) -> Response:
    """The last day alone, to be put into the page that is open."""
    bars = show_devices(caller, pool.list(caller))
    return render(request, "parts/pool_history.html", {"history": _read_history(caller, pool, bars)})


@router.post("/nodes/{node_name}/{wish}")
def change_node(request: Request, node_name: NodeName, wish: Wish, caller: Admin, form: Form, pool: Pool) -> Response:
    pool.set_node(caller, node_name, wish)
    return go_to(request, "/pool")


def _read_history(caller: Caller, pool: PoolService, bars: list[DeviceBar]) -> History:
    return show_history(PoolHistoryOut.of(pool.history(caller, hours=HOURS), caller.visible_team_id), bars)


def _describe(caller: Caller, pool: PoolService) -> dict[str, Any]:
    newest: dict[str, PriceOut] = {}
    for price in pool.list_prices(caller):
        newest.setdefault(price.device_type, PriceOut.of(price))
    bars = show_devices(caller, pool.list(caller))
    said = {node.node_name: NodeOut.of(node) for node in pool.nodes(caller)}
    return {"devices": bars, "nodes": _show_nodes(bars, said), "prices": list(newest.values())}


def _show_nodes(bars: list[DeviceBar], said: dict[str, NodeOut]) -> list[NodeRow]:
    by_node: dict[str, list[DeviceBar]] = {}
    for bar in bars:
        by_node.setdefault(bar.device.node, []).append(bar)
    return [
        NodeRow(
            name=name,
            devices=len(found),
            online=any(bar.device.online for bar in found),
            jobs=sum(len(bar.blocks) for bar in found),
            said=said.get(name),
        )
        for name, found in sorted(by_node.items())
    ]
