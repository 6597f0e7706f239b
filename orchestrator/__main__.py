"""`python -m orchestrator` runs the scheduler loops until it is told to stop.

    python -m orchestrator             run the loops
    python -m orchestrator migrate     bring the database to this release's schema
    python -m orchestrator bootstrap   migrate, make the bucket and the first admin key; the key, once, as JSON
    python -m orchestrator --check     ask database, object store and cluster, and exit with 0 or 1

It may be killed at any moment: workers go on, and the next one adopts them. SQLite is migrated on every start;
PostgreSQL only by `migrate` or `bootstrap`, because several control planes share it.
"""

import argparse
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import structlog

from orchestrator import wiring
from orchestrator.domain.errors import TunepoolError, UnavailableError
from orchestrator.runtime.launcher import Launcher
from orchestrator.runtime.local import LocalLauncher
from orchestrator.runtime.ray import RayLauncher
from orchestrator.settings import Settings, load_settings

RETRY_SECONDS = 2.0
"""Between tries to reach what is not up yet when we start."""

log = structlog.get_logger("orchestrator")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator", description="Tunepool's scheduler.")
    parser.add_argument("command", nargs="?", choices=("run", "migrate", "bootstrap"), default="run")
    parser.add_argument("--check", action="store_true", help="ask every part once and exit with 0 or 1")
    asked = parser.parse_args(arguments)
    try:
        settings = load_settings()
        wiring.configure_logs(settings)
        if asked.check:
            return check(settings)
        return {"run": run, "migrate": migrate, "bootstrap": bootstrap}[asked.command](settings)
    except (TunepoolError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def build_launcher(settings: Settings) -> Launcher:
    """Ray at the address of the settings; without one, child processes of this process, which end with it."""
    if not settings.ray_address:
        log.warning("no TUNEPOOL_RAY_ADDRESS: attempts run below this process and end with it")
        return LocalLauncher(stop_grace_seconds=settings.stop_grace_seconds)
    return RayLauncher(
        settings.ray_address,
        settings.ray_namespace,
        settings.ray_token.get_secret_value(),
        stop_grace_seconds=settings.stop_grace_seconds,
    )


def run(settings: Settings) -> int:
    """Until SIGTERM or SIGINT. 0 after a stop that was asked for."""
    asked = _StopSignals()
    services = wiring.build_services(settings)
    if not _prepare(settings, services, asked):
        return 0
    launcher = build_launcher(settings)
    plane = wiring.build_control_plane(settings, services, launcher)
    thread = threading.Thread(
        target=_run_and_tell, args=(lambda: plane.run(asked.stop, health_path=wiring.health_path(settings)), asked)
    )
    thread.start()
    asked.wait()
    was_asked = asked.is_asked
    asked.stop.set()
    thread.join()
    launcher.close()
    services.close()
    log.info("stopped", programming_errors=plane.health.programming_errors)
    return 0 if was_asked else 1


def _run_and_tell(run_loops: Callable[[], None], asked: "_StopSignals") -> None:
    try:
        run_loops()
    finally:
        asked.wake()


def _prepare(settings: Settings, services: wiring.Services, asked: "_StopSignals") -> bool:
    """Wait until database and bucket are there; False when asked to stop meanwhile."""
    while True:
        try:
            if _is_sqlite(settings):
                services.store.migrate()
            services.store.check_schema()
            services.objects.ensure_bucket()
            return True
        except UnavailableError as error:
            if error.code in {"schema_too_old", "schema_too_new"}:
                raise
            log.warning("waiting", error=error.message, code=error.code)
        if asked.wait(RETRY_SECONDS):
            return False


def migrate(settings: Settings) -> int:
    store = wiring.open_store(settings)
    store.migrate()
    store.close()
    return 0


def bootstrap(settings: Settings) -> int:
    """Safe to repeat: a second time there is no key to show."""
    services = wiring.build_services(settings)
    services.store.migrate()
    services.objects.ensure_bucket()
    made = services.keys.bootstrap_admin()
    services.close()
    sys.stdout.write(json.dumps({"created": made is not None, "api_key": made.secret if made else None}) + "\n")
    return 0


def check(settings: Settings) -> int:
    """One JSON line per part."""
    services = wiring.build_services(settings)
    launcher = build_launcher(settings)
    probes: dict[str, Callable[[], object]] = {
        "database": services.store.check_schema,
        "objects": services.objects.ping,
        "cluster": lambda: [device.device_id for device in launcher.list_devices()],
    }
    healthy = True
    for part, probe in probes.items():
        try:
            found, error = probe(), None
        except TunepoolError as problem:
            found, error, healthy = None, problem.message, False
        sys.stdout.write(json.dumps({"part": part, "ok": error is None, "found": found, "error": error}) + "\n")
    launcher.close()
    services.close()
    return 0 if healthy else 1


def _is_sqlite(settings: Settings) -> bool:
    return settings.resolved_database_url.startswith("sqlite")


class _StopSignals:
    """SIGTERM and SIGINT, told through a pipe: a handler may run while this thread holds any lock, so it takes none."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.is_asked = False
        self._read, self._write = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self, seconds: float | None = None) -> bool:
        """True when a signal came, or `wake` was called."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def wake(self) -> None:
        os.write(self._write, b".")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        os.write(self._write, b".")


def _leave(code: int) -> None:
    """A validation under way may hold a thread for minutes; all that it would do can be done again."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
