"""The whole API for tests: a real HTTP server over a real SQLite file and a real object store, and all loops beside it.

Only the workers are scripted (`tests.support.launchers`); the loops move when a test steps them. Each server has a
port, a database and a bucket of its own.
"""

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.metrics import HttpMetrics
from api.server import Server, make_server
from orchestrator.domain.teams import Caller, Role
from orchestrator.scheduler.control import ControlPlane
from orchestrator.settings import Settings
from orchestrator.wiring import Services, build_control_plane, build_services
from tests.support.databases import copy_template
from tests.support.launchers import ScriptedLauncher, cpu_device
from tests.support.storage import StorageServer

START_SECONDS = 30.0
STOP_SECONDS = 15.0


class _SignallingServer(Server):
    """Says when it answers, so that nobody has to ask again and again."""

    ready: threading.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@dataclass
class ApiServer:
    """`admin` is the first key's holder, of team 'default'; `plane` has all loops on `launcher`."""

    settings: Settings
    services: Services
    app: FastAPI
    launcher: ScriptedLauncher
    plane: ControlPlane
    admin: Caller
    admin_key: str = field(repr=False)
    port: int = 0
    server: _SignallingServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def http_metrics(self) -> HttpMetrics:
        """Told of every request when it is over."""
        return cast(HttpMetrics, self.app.state.http_metrics)

    def start(self) -> None:
        """Begin to answer; on the same port again after `stop`."""
        # Named TCP, so that asyncio turns off Nagle's algorithm on what it accepts.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = make_server(self.app, self.settings).config
        self.server = _SignallingServer(config, self.app)
        self.server.ready = threading.Event()
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, name="api")
        self._thread.start()
        assert self.server.ready.wait(START_SECONDS), "the API did not start"

    def stop(self) -> None:
        if self.server is not None and self._thread is not None:
            self.server.stop()
            self._thread.join(STOP_SECONDS)
            assert not self._thread.is_alive(), "the API did not stop"
            self.server = None

    def restart(self) -> None:
        """Another app on the same port, as a new process would bring it up."""
        self.app = create_app(self.settings, self.services)
        self.start()

    def step(self, *loops: str) -> None:
        """One pass of each loop (of all, in order, by default). A programming error fails the test."""
        for name in loops or tuple(self.plane.runners):
            self.plane.runners[name].run_once()
        assert not self.plane.health.programming_errors, self.plane.health.snapshot()

    def make_team(self, name: str) -> str:
        return self.services.teams.create(self.admin, name).team_id

    def make_key(self, role: Role = Role.MEMBER, *, team: str = "default") -> str:
        return self.services.keys.create(self.admin, name="test", role=role, team=team).secret

    def http(self, key: str | None = None, **headers: str) -> httpx2.Client:
        """A plain client with a key, the admin's by default; an empty one sends none."""
        key = self.admin_key if key is None else key
        authorization = {"authorization": f"Bearer {key}"} if key else {}
        # No TLS here, and loading the system's certificates for each client would take most of a test's time.
        return httpx2.Client(
            base_url=self.url, headers={**authorization, **headers}, trust_env=False, verify=False, timeout=30
        )


_DEFAULTS = {"allow_hub": False, "poll_seconds": 0.02, "min_training_rows": 1, "estimator": "closed_form"}
"""A tracer takes seconds to start; what it answers has tests of its own."""


@contextmanager
def run_server(storage: StorageServer, database_url: str, folder: Path, **settings: Any) -> Iterator[ApiServer]:
    """`database_url` names a migrated database."""
    chosen = Settings(
        data_dir=folder,
        database_url=database_url,
        s3_endpoint=storage.endpoint,
        s3_bucket=f"api-{uuid.uuid4().hex}",
        s3_access_key=storage.access_key,
        s3_secret_key=storage.secret_key,
        **{**_DEFAULTS, **settings},
    )
    services = build_services(chosen)
    try:
        services.objects.ensure_bucket()
        made = services.keys.bootstrap_admin()
        assert made is not None
        launcher = ScriptedLauncher([cpu_device()])
        server = ApiServer(
            settings=chosen,
            services=services,
            app=create_app(chosen, services),
            launcher=launcher,
            plane=build_control_plane(chosen, services, launcher),
            admin=services.keys.authenticate(made.secret),
            admin_key=made.secret,
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        services.close()


@pytest.fixture(scope="module")
def bare_server(
    storage_server: StorageServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """A server that the tests of a module share, with nothing in it but the first key."""
    folder = tmp_path_factory.mktemp("bare")
    with run_server(storage_server, copy_template(sqlite_template, folder), folder) as server:
        yield server


@pytest.fixture
def api_server(storage_server: StorageServer, sqlite_url: str, tmp_path: Path, tiny_model: Path) -> Iterator[ApiServer]:
    """A server of its own for one test; base model 'tiny' is registered."""
    with run_server(storage_server, sqlite_url, tmp_path, model_roots=(tiny_model.parent,)) as server:
        server.services.models.add(server.admin, "tiny", str(tiny_model))
        yield server
