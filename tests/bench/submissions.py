"""Durable submissions per second with 16 connections, on SQLite and PostgreSQL, beside a bare insert.

The bare app writes one job and one event in one transaction, and nothing else.

`python -m tests.bench.submissions`
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from api.client import Tunepool
from tests.bench.machine import percentile, print_table
from tests.e2e.jobs import MODEL, write_rows
from tests.support.api_process import run_api
from tests.support.models import build_tiny_model
from tests.support.postgres import PostgresServer
from tests.support.stack import wait_for
from tests.support.storage import StorageServer

CONNECTIONS = 16
SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Load:
    per_second: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="tp") as name, ExitStack() as ends:
        storage, postgres = StorageServer(), PostgresServer(durable=True)
        ends.callback(postgres.stop)
        ends.callback(storage.remove)
        storage.start()
        folder = Path(name)
        model = build_tiny_model(folder / "model")
        for engine in ("SQLite", "PostgreSQL"):
            url = "" if engine == "SQLite" else postgres.url(postgres.create_database())
            with run_api(folder / engine, storage, database_url=url) as api:
                full = _load_api(api.url, api.api_key, model, folder)
            bare_url = f"sqlite:///{folder}/bare.db" if not url else postgres.url(postgres.create_database())
            with _run_bare(bare_url) as base:
                bare = _press(f"{base}/jobs", {}, lambda: json.dumps({"model": "m", "training_file": "f"}))
            rows.append(
                [
                    engine,
                    f"{full.per_second:.0f}",
                    f"{full.p50_ms:.0f} / {full.p99_ms:.0f} ms",
                    f"{bare.per_second:.0f}",
                    f"{full.per_second / bare.per_second:.2f}",
                ]
            )
    header = ["engine", "submissions/s", "p50 / p99", "bare insert/s", "ratio"]
    print_table(f"Durable submissions, {CONNECTIONS} connections, {SECONDS:.0f} s", header, rows)


def _load_api(url: str, api_key: str, model: Path, folder: Path) -> Load:
    with Tunepool(url, api_key) as client:
        client.base_models.create(name=MODEL, location=str(model))
        file_id = client.files.create(write_rows(folder / "train.jsonl")).id
    body = json.dumps({"model": MODEL, "training_file": file_id, "method": {"type": "supervised"}})
    return _press(f"{url}/v1/fine_tuning/jobs", {"Authorization": f"Bearer {api_key}"}, lambda: body)


def _press(url: str, headers: dict[str, str], body: Callable[[], str]) -> Load:
    """Keep CONNECTIONS requests under way for SECONDS, each connection in a thread of its own."""
    parts = urlsplit(url)
    taken: list[float] = []
    stop = time.perf_counter() + SECONDS

    def press() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        while (started := time.perf_counter()) < stop:
            connection.request("POST", parts.path, body(), {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            taken.append(time.perf_counter() - started)

    threads = [threading.Thread(target=press) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(
        per_second=len(taken) / SECONDS, p50_ms=1000 * percentile(taken, 0.5), p99_ms=1000 * percentile(taken, 0.99)
    )


@contextmanager
def _run_bare(database_url: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "BARE_URL": database_url, "BARE_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.bare_app"], env=environment)

    def is_up() -> bool | None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return None
        return True

    try:
        wait_for(is_up, "the bare app")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
