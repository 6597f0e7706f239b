"""The API as a process of its own over a given database and a real object store, with no scheduler: for load."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support.stack import wait_for
from tests.support.storage import StorageServer

START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class ApiProcess:
    url: str
    api_key: str
    pid: int


@contextmanager
def run_api(folder: Path, storage: StorageServer, *, database_url: str = "") -> Iterator[ApiProcess]:
    """`database_url` is empty for SQLite in the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TUNEPOOL_")},
        "TUNEPOOL_DATA_DIR": str(folder),
        "TUNEPOOL_DATABASE_URL": database_url,
        "TUNEPOOL_S3_ENDPOINT": storage.endpoint,
        "TUNEPOOL_S3_BUCKET": f"bench-{port}",
        "TUNEPOOL_S3_ACCESS_KEY": storage.access_key,
        "TUNEPOOL_S3_SECRET_KEY": storage.secret_key,
        "TUNEPOOL_API_PORT": str(port),
        "TUNEPOOL_LOG_LEVEL": "warning",
        "TUNEPOOL_RATE_LIMIT_PER_MINUTE": "1000000",
    }
    made = subprocess.run(
        [sys.executable, "-m", "orchestrator", "bootstrap"], env=environment, capture_output=True, text=True, check=True
    )
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "api"], env=environment)
    try:
        wait_for(lambda: _answers(url), "the API", seconds=START_SECONDS)
        yield ApiProcess(url=url, api_key=json.loads(made.stdout)["api_key"], pid=process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool | None:
    try:
        return True if httpx2.get(f"{url}/health", trust_env=False).is_success else None
    except httpx2.TransportError:
        return None
