"""What a simulation of this pool starts from."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Admin, History
from api.requests import JsonRoute
from api.schemas.simulation import HistoryOut

router = APIRouter(prefix="/v1/simulation", tags=["Simulation"], route_class=JsonRoute)

Days = Annotated[int, Query(ge=1, le=365, description="How far back, by the moment of queueing.")]


@router.get("/history", summary="Show what ran, as a workload")
def get_history(caller: Admin, history: History, days: Days = 30) -> HistoryOut:
    """The jobs of all teams that had a device, with how long they ran: what `tunepool simulate --trace history`
    replays."""
    return HistoryOut.of(history.read(caller, days=days))
