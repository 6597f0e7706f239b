"""What a job would take, before it is submitted."""

from fastapi import APIRouter

from api.dependencies import Estimates, Reader
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.estimates import EstimateOut
from api.schemas.submissions import EstimateCreate

router = APIRouter(prefix="/v1/estimates", tags=["Estimates"], route_class=JsonRoute)


@router.post("", responses=failures(400, 413), summary="Estimate a job")
def estimate_job(body: EstimateCreate, caller: Reader, estimates: Estimates) -> EstimateOut:
    """Memory with its breakdown, time, cost, and where in the pool it would fit. Nothing is created. The body is a
    job's; instead of `training_file` its rows may be described."""
    return EstimateOut.of(estimates.estimate(caller, body.to_spec()))
