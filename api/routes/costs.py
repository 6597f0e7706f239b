"""What a team's jobs cost."""

from fastapi import APIRouter

from api.dependencies import Costs, Reader
from api.requests import JsonRoute
from api.schemas.costs import CostsOut
from orchestrator.domain.teams import Role

router = APIRouter(prefix="/v1/costs", tags=["Teams"], route_class=JsonRoute)


@router.get("", summary="Show a team's costs")
def get_costs(caller: Reader, costs: Costs) -> CostsOut:
    """The sum of the ledger over the caller's team; for an admin, over the whole pool."""
    billed, lost = costs.of_team(caller)
    team = None if caller.role is Role.ADMIN else caller.team_name
    return CostsOut.of(team, billed_usd_micros=billed, lost_usd_micros=lost)
