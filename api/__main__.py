"""`python -m api` serves the REST API until it is told to stop; `python -m api openapi` prints the OpenAPI document,
and `python -m api docs` writes the reference pages of docs/reference.

It may be killed at any moment: nothing is kept in memory that a client was promised. SQLite is migrated on every start;
PostgreSQL only by `python -m orchestrator migrate`, because several processes share it.
"""

import sys
from collections.abc import Sequence

import structlog

from api.app import create_app, describe_app
from api.openapi import print_document
from api.reference.pages import write_pages
from api.server import make_server
from orchestrator.domain.errors import TunepoolError, UnavailableError
from orchestrator.settings import Settings, load_settings
from orchestrator.wiring import Services, build_services, configure_logs

WRONG_SCHEMA = frozenset({"schema_too_old", "schema_too_new"})
log = structlog.get_logger("api")


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["openapi"]:
        sys.stdout.write(print_document(describe_app()))
        return 0
    if list(arguments) == ["docs"]:
        write_pages()
        return 0
    if arguments:
        sys.stderr.write("usage: python -m api [openapi | docs]\n")
        return 2
    try:
        return serve(load_settings())
    except (TunepoolError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def serve(settings: Settings) -> int:
    """Until SIGTERM or SIGINT; running requests get five seconds."""
    configure_logs(settings)
    services = build_services(settings)
    try:
        prepare(settings, services)
        log.info("serving", host=settings.api_host, port=settings.api_port)
        make_server(create_app(settings, services), settings).run()
    finally:
        services.close()
    return 0


def prepare(settings: Settings, services: Services) -> None:
    """Raises StoreUnavailableError when the tables are another release's. A database that is away is no reason not to
    start: requests are answered with 503 until it is back."""
    try:
        if settings.resolved_database_url.startswith("sqlite"):
            services.store.migrate()
        services.store.check_schema()
    except UnavailableError as error:
        if error.code in WRONG_SCHEMA:
            raise
        log.warning("the database is away", error=error.message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
