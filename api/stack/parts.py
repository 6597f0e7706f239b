"""What an embedded stack consists of: object store, Ray, database and first key, API, scheduler."""

import os
import sys
from dataclasses import dataclass

import httpx2

from api.stack import rayhead, weed
from api.stack.folder import DataFolder, Secrets, read_json
from api.stack.ports import HOST, Ports
from api.stack.supervisor import Part

OBJECTS, RAY, BOOTSTRAP, API, SCHEDULER = "objects", "ray", "bootstrap", "api", "scheduler"
PROBE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything that the parts are made from."""

    folder: DataFolder
    secrets: Secrets
    ports: Ports
    device_arguments: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports.api}"


def build_parts(layout: Layout) -> tuple[Part, ...]:
    """In the order of their start; they end in reverse."""
    folder, ports = layout.folder, layout.ports
    environment = control_environment(layout)

    def prepare_objects() -> None:
        weed.remove_sockets(ports)
        weed.remove_dead_sockets()
        weed.prepare_folder(folder, layout.secrets)

    return (
        Part(
            name=OBJECTS,
            command=weed.weed_command(folder, ports),
            environment=weed.weed_environment(folder),
            is_ready=lambda: answers(f"http://{HOST}:{ports.s3}/status"),
            before_start=prepare_objects,
            after_end=lambda: weed.remove_sockets(ports),
            stop_seconds=weed.STOP_SECONDS,
        ),
        Part(
            name=RAY,
            command=rayhead.ray_command(folder, ports, layout.device_arguments),
            environment=environment,
            is_ready=lambda: rayhead.is_ray_ready(folder, ports),
            before_start=lambda: rayhead.drop_old_sessions(folder),
            tree=True,
            start_seconds=120.0,
            stop_seconds=10.0,
        ),
        Part(
            name=BOOTSTRAP,
            command=(sys.executable, "-m", "orchestrator", "bootstrap"),
            environment=environment,
            output=folder.bootstrap_file,
            once=True,
            needs=(OBJECTS,),
        ),
        Part(
            name=API,
            command=(sys.executable, "-m", "api"),
            environment=environment,
            is_ready=lambda: answers(f"{layout.url}/health"),
            needs=(BOOTSTRAP,),
        ),
        Part(
            name=SCHEDULER,
            command=(sys.executable, "-m", "orchestrator"),
            environment=environment,
            is_ready=lambda: answers(f"{layout.url}/ready") and has_devices(layout),
            needs=(OBJECTS, RAY, BOOTSTRAP),
            follows=(RAY,),
        ),
    )


def control_environment(layout: Layout) -> dict[str, str]:
    """The caller's environment under our settings, so that other settings (a hub token, a limit) pass through."""
    folder, ports, secrets = layout.folder, layout.ports, layout.secrets
    return {
        **base_environment(layout.folder),
        "TUNEPOOL_API_HOST": HOST,
        "TUNEPOOL_API_PORT": str(ports.api),
        "TUNEPOOL_S3_ENDPOINT": f"http://{HOST}:{ports.s3}",
        "TUNEPOOL_S3_ACCESS_KEY": secrets.s3_access_key,
        "TUNEPOOL_S3_SECRET_KEY": secrets.s3_secret_key,
        "TUNEPOOL_RAY_ADDRESS": f"{HOST}:{ports.ray}",
        "TUNEPOOL_RAY_TOKEN": secrets.ray_token,
        "TUNEPOOL_DATA_DIR": str(folder.root),
    }


def base_environment(folder: DataFolder) -> dict[str, str]:
    """What every part sees; the caller's own API key is nobody's business here."""
    kept = {name: value for name, value in os.environ.items() if name not in {"TUNEPOOL_API_KEY", "TUNEPOOL_URL"}}
    return {**kept, **rayhead.ray_environment(folder), "PYTHONUNBUFFERED": "1"}


def answers(url: str) -> bool:
    """Whether a GET answers with success now."""
    found = _ask(url, "")
    return found is not None and found.is_success


def has_devices(layout: Layout) -> bool:
    """Whether the scheduler has met a device, so that a job could start. Without the first key nobody can tell."""
    api_key = read_json(layout.folder.client_file).get("api_key")
    if not api_key:
        return True
    found = _ask(f"{layout.url}/v1/pool", api_key)
    if found is None or not found.is_success:
        return found is not None and found.status_code == 401
    return any(device["online"] for device in found.json()["devices"])


def _ask(url: str, api_key: str) -> httpx2.Response | None:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        return httpx2.get(url, headers=headers, timeout=PROBE_SECONDS, trust_env=False)
    except httpx2.TransportError:
        return None
