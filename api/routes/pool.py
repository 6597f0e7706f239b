"""The pool: devices, what runs on each, free memory, and the price book."""

from fastapi import APIRouter

from api.dependencies import Admin, Pool, Reader
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.pool import DeviceOut, PoolOut, PriceCreate, PriceOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/pool", tags=["Pool"], route_class=JsonRoute)


@router.get("", summary="Show the pool")
def get_pool(caller: Reader, pool: Pool) -> PoolOut:
    """Every device with what holds it. Whose a hold is shows to its own team and to admins."""
    devices = [DeviceOut.of(view, caller.visible_team_id) for view in pool.list(caller)]
    return PoolOut(object="pool", devices=devices)


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
