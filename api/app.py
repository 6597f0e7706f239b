"""The HTTP application: built from values, with no configuration read and nothing started before its lifespan.

Around every route stand, from the outside in: RequestContext (id, log line, 500), HostCheck, Authentication.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from api.auth import Authentication
from api.dashboard.assets import load_assets
from api.dashboard.rendering import build_environment
from api.dashboard.routes import audit as audit_pages
from api.dashboard.routes import (
    compare,
    data,
    docs,
    job,
    job_actions,
    login,
    new_job,
    overview,
    reports,
    static,
    team,
)
from api.dashboard.routes import jobs as job_pages
from api.dashboard.routes import models as model_pages
from api.dashboard.routes import pool as pool_pages
from api.dashboard.routes import teams as team_pages
from api.documentation.library import Library
from api.errors import install_handlers
from api.feeds import EncodedRows
from api.metrics import HttpMetrics, PoolCollector
from api.middleware import HostCheck, RequestContext
from api.openapi import cached_document
from api.ratelimit import RateLimit
from api.routes import (
    accuracy,
    activity,
    adapters,
    arrays,
    audit,
    base_models,
    costs,
    estimates,
    files,
    health,
    jobs,
    keys,
    models,
    pool,
    simulation,
    teams,
    uploads,
    usage,
)
from api.streams import OpenStreams
from api.version import VERSION
from orchestrator.settings import Settings
from orchestrator.wiring import Services

DESCRIPTION = """Fine-tune open models on your own GPUs. The unmodified `openai` client works with its `base_url` set to
this server's `/v1`; Tunepool's own fields ride in the same objects.

Moments are integer Unix seconds. Money is integer micro-dollars (`…_usd_micros`) beside exact decimal strings
(`…_usd`). Lists are pages: pass the last item's id as `after`. Every answer carries `x-request-id`, and every error
the same envelope."""
TAGS = [
    {"name": "Files", "description": "Data sets in, results out."},
    {"name": "Uploads", "description": "Files too large for one request, in parts."},
    {"name": "Jobs", "description": "Fine-tuning jobs: submit, follow, cancel, pause, resume."},
    {"name": "Estimates", "description": "What a job would take, before it is submitted."},
    {"name": "Models", "description": "Base models and fine-tuned ones."},
    {"name": "Adapters", "description": "Published LoRA adapters and their files."},
    {"name": "Pool", "description": "Devices, what runs on each, and prices."},
    {"name": "Teams", "description": "Teams, API keys and costs."},
    {"name": "Service", "description": "Health, readiness and metrics."},
]
ROUTERS = tuple(
    module.router
    for module in (
        files,
        uploads,
        jobs,
        arrays,
        activity,
        estimates,
        accuracy,
        audit,
        models,
        base_models,
        adapters,
        pool,
        simulation,
        teams,
        keys,
        costs,
        usage,
        health,
    )
)
PAGES = tuple(
    module.router
    for module in (
        static,
        login,
        overview,
        job_pages,
        job,
        job_actions,
        compare,
        new_job,
        data,
        pool_pages,
        model_pages,
        team_pages,
        audit_pages,
        team,
        reports,
        docs,
    )
)
"""The dashboard; in no document, because what it shows is the API's."""
UPLOAD_SHARE = 4
"""One thread in this many stores uploads; see `upload_threads`."""
RESERVED_CONNECTIONS = 2
"""Database connections that no handler takes: the tail's, and one for health."""


def upload_threads(settings: Settings) -> int:
    """Uploads hold a thread for as long as their client takes, so they get threads of their own."""
    return max(1, settings.database_connections // UPLOAD_SHARE)


def handler_threads(settings: Settings) -> int:
    """Every thread may hold one database connection, so that no request waits for one while it holds a thread."""
    return max(1, settings.database_connections - upload_threads(settings) - RESERVED_CONNECTIONS)


def describe_app() -> FastAPI:
    """All routes and the document, with nothing behind them."""
    app = FastAPI(
        title="Tunepool",
        version=VERSION,
        summary="Self-hosted LoRA and QLoRA fine-tuning for teams that share a pool of GPUs",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False},
        lifespan=_lifespan,
    )
    for router in ROUTERS:
        app.include_router(router)
    for router in PAGES:
        app.include_router(router, include_in_schema=False)
    install_handlers(app)
    app.openapi = partial(cached_document, app)  # type: ignore[method-assign]
    return app


def create_app(settings: Settings, services: Services) -> FastAPI:
    app = describe_app()
    app.state.settings = settings
    app.state.services = services
    app.state.streams = OpenStreams()
    app.state.assets = load_assets()
    app.state.library = Library()
    app.state.templates = build_environment(app.state.assets)
    app.state.encoded_rows = EncodedRows()
    app.state.upload_limiter = CapacityLimiter(upload_threads(settings))
    app.state.registry = CollectorRegistry()
    app.state.registry.register(PoolCollector(services.health.measure))
    app.add_middleware(RateLimit, per_minute=settings.rate_limit_per_minute)
    app.add_middleware(Authentication, keys=services.keys)
    app.add_middleware(HostCheck, allowed_hosts=settings.allowed_hosts)
    app.state.http_metrics = HttpMetrics(app.state.registry)
    app.add_middleware(RequestContext, metrics=app.state.http_metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = handler_threads(app.state.settings)
    yield
    app.state.streams.close_all()
