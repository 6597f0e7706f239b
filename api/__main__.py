"""`python -m api` serves the REST API until it is told to stop; `python -m api openapi` prints the OpenAPI document."""

import sys

from api.app import create_app, describe_app
from api.logs import configure_logs
from api.openapi import print_document
from api.server import make_server
from orchestrator.settings import load_settings
from orchestrator.wiring import build_services


def main(arguments: list[str]) -> int:
    if arguments == ["openapi"]:
        sys.stdout.write(print_document(describe_app()))
        return 0
    if arguments:
        sys.stderr.write("usage: python -m api [openapi]\n")
        return 2
    serve()
    return 0


def serve() -> None:
    settings = load_settings()
    configure_logs(settings)
    services = build_services(settings)
    try:
        make_server(create_app(settings, services), settings).run()
    finally:
        services.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
