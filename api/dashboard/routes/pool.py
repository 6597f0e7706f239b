"""Each device to scale, with what jobs have reserved on it and what they use; and the prices."""

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render, wants_fragment
from api.dashboard.views.devices import show_devices
from api.dependencies import Pool, Reader
from api.schemas.pool import PriceOut

router = APIRouter(route_class=PageRoute)


@router.get("/pool")
def show_pool(request: Request, caller: Reader, pool: Pool) -> Response:
    newest: dict[str, PriceOut] = {}
    for price in pool.list_prices(caller):
        newest.setdefault(price.device_type, PriceOut.of(price))
    values = {"devices": show_devices(caller, pool.list(caller)), "prices": list(newest.values())}
    return render(request, "parts/pool.html" if wants_fragment(request) else "pool.html", values)
