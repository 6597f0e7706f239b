"""The HTTP server process: uvicorn, told to end open streams before it waits for requests to finish."""

import signal
from types import FrameType

import uvicorn
from fastapi import FastAPI

from orchestrator.settings import Settings

GRACEFUL_SECONDS = 5
"""What running requests get after a signal; streams end at once by themselves."""


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Uvicorn's own would raise the signal again when all is done, and so skip what comes after `run`."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.stop()

    def stop(self) -> None:
        """Ask the server to end; safe from any thread."""
        self._app.state.streams.close_all()
        self.should_exit = True


def make_server(app: FastAPI, settings: Settings) -> Server:
    """`api_port` 0 lets the system choose; logs and access lines are this project's own (see `api.middleware`)."""
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
        lifespan="on",
    )
    return Server(config, app)
