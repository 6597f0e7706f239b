"""The pool: devices, what runs on each, free memory, and the price book."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Admin, NodeName, Pool, Reader, Wish
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.pool import DeviceOut, LackOut, NodeOut, PoolHistoryOut, PoolOut, PriceCreate, PriceOut, RulesOut
from api.schemas.wire import ListPage, list_page

Hours = Annotated[int, Query(ge=1, le=168, description="How far back it goes.")]
router = APIRouter(prefix="/v1/pool", tags=["Pool"], route_class=JsonRoute)


@router.get("", summary="Show the pool")
def get_pool(caller: Reader, pool: Pool) -> PoolOut:
    """Every device with what holds it. Whose a hold is shows to its own team and to admins."""
    devices = [DeviceOut.of(view, caller.visible_team_id) for view in pool.list(caller)]
    nodes = [NodeOut.of(node) for node in pool.nodes(caller)]
    lacks = [LackOut.of(lack) for lack in pool.lacks(caller)]
    return PoolOut(object="pool", rules=RulesOut.of(pool.rules), devices=devices, nodes=nodes, lacks=lacks)


@router.get("/history", responses=failures(400), summary="Show what held the devices")
def get_pool_history(caller: Reader, pool: Pool, hours: Hours = 24) -> PoolHistoryOut:
    """Every hold of the last hours, with its bytes. Whose a hold was shows to its own team and to admins."""
    return PoolHistoryOut.of(pool.history(caller, hours=hours), caller.visible_team_id)


@router.post("/nodes/{node_name}/{wish}", responses=failures(400, 404), summary="Cordon, drain or uncordon a node")
def set_node(node_name: NodeName, wish: Wish, caller: Admin, pool: Pool) -> NodeOut:
    """Admins only. `cordon`: nothing new starts there. `drain`: what runs there also saves a checkpoint and moves.
    `uncordon`: it takes jobs again. Safe to repeat."""
    return NodeOut.of(pool.set_node(caller, node_name, wish))


@router.get("/prices", summary="List prices")
def list_prices(caller: Reader, pool: Pool) -> ListPage[PriceOut]:
    """The price book, all versions, the newest of each device type first."""
    return list_page([PriceOut.of(price) for price in pool.list_prices(caller)], has_more=False)


@router.post("/prices", responses=failures(400, 413), summary="Set a price")
def set_price(body: PriceCreate, caller: Admin, pool: Pool) -> PriceOut:
    """Admins only. Attempts that start from now on are billed by it; those that run keep theirs."""
    return PriceOut.of(
        pool.set_price(caller, device_type=body.device_type, usd_micros_per_hour=body.usd_micros_per_hour)
    )
