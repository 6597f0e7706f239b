"""For probes and for Prometheus: alive, ready, measured."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.dependencies import Health, Reader
from api.openapi import binary
from api.requests import JsonRoute
from api.schemas.health import CheckOut, HealthOut, ReadyOut
from api.version import VERSION

router = APIRouter(tags=["Service"], route_class=JsonRoute)


@router.get("/health", summary="Is the process alive?")
def get_health() -> HealthOut:
    """Public, and asks nothing else."""
    return HealthOut(status="ok", version=VERSION)


@router.get(
    "/ready",
    responses={503: {"model": ReadyOut, "description": "A part does not answer."}},
    summary="Can jobs be taken and run?",
)
def get_ready(response: Response, health: Health) -> ReadyOut:
    """Public. Asks the database, the object store, and whether a scheduler leads; 503 when one of them is not well."""
    checks = {name: CheckOut.of(check) for name, check in health.check().items()}
    ready = all(check.ok for check in checks.values())
    response.status_code = 200 if ready else 503
    return ReadyOut(status="ready" if ready else "not_ready", checks=checks)


@router.get(
    "/metrics",
    responses=binary("Prometheus' text format.", "text/plain"),
    response_class=PlainTextResponse,
    summary="Figures for Prometheus",
)
def get_metrics(request: Request, caller: Reader) -> Response:
    """For any key, whatever its role. Counts and sums over all teams, without names."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
