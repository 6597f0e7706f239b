"""The service around the routes: health, readiness, Prometheus, host names, logs, and a database that goes away."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psycopg
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from api import __main__ as program
from orchestrator.domain.errors import StoreUnavailableError
from orchestrator.domain.scheduling.demand import Lack
from orchestrator.settings import Settings
from orchestrator.store.lacks import record_lacks
from orchestrator.store.nodes import record_node
from orchestrator.store.session import Store
from orchestrator.wiring import build_services
from tests.support.openai_clients import tickets
from tests.support.postgres import SUPERUSER, PostgresServer
from tests.support.rows import add_job
from tests.support.servers import ApiServer, run_server
from tests.support.storage import StorageServer
from tests.support.trainers import Trainer

ROOT = Path(__file__).resolve().parents[2]


def _submit(http: httpx2.Client) -> str:
    files = {"file": ("t.jsonl", tickets())}
    file_id = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()["id"]
    return str(http.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id}).json()["id"])


def test_readiness_names_the_part_that_is_missing(api_server: ApiServer) -> None:
    with api_server.http("") as http:
        assert http.get("/health").json() == {"status": "ok", "version": "0.1.0"}
        before = http.get("/ready")
        assert (before.status_code, before.json()["status"]) == (503, "not_ready")
        assert before.json()["checks"]["leader"]["ok"] is False
        assert before.json()["checks"]["database"] == {"ok": True, "message": None, "age_seconds": None}
        api_server.step("lead")
        after = http.get("/ready").json()
        assert (after["status"], after["checks"]["objects"]["ok"]) == ("ready", True)
        assert 0 <= after["checks"]["leader"]["age_seconds"] < api_server.settings.leader_lease_seconds
        api_server.plane.resign()
        assert http.get("/ready").json()["checks"]["leader"]["ok"] is False


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_sees_the_pool_and_the_requests_without_ids(api_server: ApiServer) -> None:
    with api_server.http() as http:
        job_id = _submit(http)
        trainer = Trainer(api_server, job_id)
        trainer.begin()
        held = _samples(http.get("/metrics").text)
        trainer.succeed()
        http.get(f"/v1/fine_tuning/jobs/{job_id}")
        http.get("/v1/fine_tuning/jobs/ftjob-nope")
        http.get("/v1/nothing/here")
        text = http.get("/metrics").text
    device = (("device", "node-a/cpu:0"), ("device_type", "cpu"))
    found = _samples(text)
    assert held["tunepool_jobs", (("state", "running"),)] == 1
    assert held["tunepool_attempts_active", (("state", "running"),)] == 1
    assert 0 < held["tunepool_device_reserved_bytes", device] < held["tunepool_device_usable_bytes", device]
    assert found["tunepool_jobs", (("state", "succeeded"),)] == 1
    assert found["tunepool_queue_length", ()] == 0
    assert found["tunepool_attempts_ended_total", (("failure", "none"), ("outcome", "succeeded"))] == 1
    assert found["tunepool_device_reserved_bytes", device] == 0
    assert found["tunepool_ledger_usd_micros_total", (("device_type", "cpu"), ("kind", "billed"))] >= 0
    assert found["tunepool_up", ()] == found["tunepool_leader_up", ()] == 1
    route = (("method", "GET"), ("route", "/v1/fine_tuning/jobs/{job_id}"))
    assert found["tunepool_http_request_seconds_count", (*route, ("status", "404"))] == 1
    assert found["tunepool_http_request_seconds_count", (*route, ("status", "200"))] >= 1
    unmatched = (("method", "GET"), ("route", "unmatched"), ("status", "404"))
    assert found["tunepool_http_request_seconds_count", unmatched] == 1
    assert job_id not in text
    assert api_server.admin.team_id not in text


def test_what_the_pool_lacks_and_which_nodes_rest_is_shown(api_server: ApiServer) -> None:
    size = 24 * 2**30
    lacking = [
        Lack(device_type="l4", usable_bytes=size, together=1, groups=3, jobs=5),
        Lack(device_type="l4", usable_bytes=size, together=2, groups=1, jobs=1),
    ]
    with api_server.services.store.write() as tx:
        record_lacks(tx, lacking)
        record_node(tx, "node-a", cordoned=True, automatic=True)
    with api_server.http() as http:
        pool, found = http.get("/v1/pool").json(), _samples(http.get("/metrics").text)
    one = {"object": "lack", "device_type": "l4", "usable_bytes": size}
    assert pool["lacks"] == [
        {**one, "devices": 3, "together": 1, "jobs": 5},
        {**one, "devices": 2, "together": 2, "jobs": 1},
    ]
    (node,) = pool["nodes"]
    assert (node["id"], node["automatic"]) == ("node-a", True)
    assert pool["rules"]["turns_hours"] == []
    kind = (("device_type", "l4"), ("usable_bytes", str(size)))
    assert found["tunepool_devices_lacking", kind] == 5
    assert found["tunepool_jobs_lacking_devices", kind] == 6
    assert found["tunepool_nodes_resting", ()] == 1


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.1@evil.example"])
def test_other_host_names_are_not_answered(api_server: ApiServer, host: str) -> None:
    with api_server.http(host=host) as http:
        for path in ("/v1/models", "/health"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80"])
def test_the_allowed_host_names_are(api_server: ApiServer, host: str) -> None:
    with api_server.http(host=host) as http:
        assert http.get("/v1/models").status_code == 200


def test_a_nul_in_an_address_reaches_no_database(api_server: ApiServer) -> None:
    with api_server.http() as http:
        for path in ("/v1/files/file-%00", "/v1/files?after=%00", "/v1/models/a%00b"):
            assert http.get(path).status_code == 400


def test_strange_ids_are_not_found(api_server: ApiServer) -> None:
    with api_server.http() as http:
        for strange in ("..%2f..%2fetc", "file-%F0%9F%A4%96", "%252e%252e", "a;b", "'%20OR%201=1", "x" * 500, "%ff%fe"):
            assert http.get(f"/v1/files/{strange}").status_code == 404, strange
            assert http.get(f"/v1/models/{strange}").status_code == 404, strange
        assert http.get(f"/v1/files/{'x' * 600}").status_code == 400


def test_the_log_has_a_line_for_each_request_and_no_secret(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as lines, api_server.http() as http:
        http.get("/v1/files?purpose=fine-tune", headers={"x-request-id": "my-request-1"})
        http.get("/v1/files/file-x")
        made = http.post("/v1/keys", json={"name": "n"}).json()
        http.get("/v1/models", headers={"authorization": "Bearer tp_wrong-key"})
        api_server.stop()
    requests = [line for line in lines if line["event"] == "request"]
    first = requests[0]
    assert (first["request_id"], first["method"], first["path"]) == ("my-request-1", "GET", "/v1/files")
    assert (first["status"], first["team"]) == (200, "default")
    assert [line["status"] for line in requests] == [200, 404, 200, 401]
    said = json.dumps(lines, default=str)
    for secret in (api_server.admin_key, made["secret"], "tp_wrong-key", "purpose=fine-tune"):
        assert secret not in said


def test_the_document_is_served_and_no_page_that_loads_scripts_from_elsewhere(api_server: ApiServer) -> None:
    with api_server.http() as http:
        document = http.get("/openapi.json").json()
        assert document == json.loads((ROOT / "api" / "openapi.json").read_text())
        assert http.get("/redoc").status_code == 404
        assert "swagger" not in http.get("/docs").text.lower()


def test_a_database_that_goes_away_is_a_503_until_it_is_back(
    storage_server: StorageServer, postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    with (
        run_server(storage_server, postgres_url, tmp_path) as server,
        psycopg.connect(host=str(postgres_server.folder), user=SUPERUSER, dbname="postgres", autocommit=True) as root,
        server.http() as http,
    ):
        assert http.get("/v1/fine_tuning/jobs").status_code == 200
        root.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # type: ignore[arg-type]
        root.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        away = http.get("/v1/fine_tuning/jobs")
        assert (away.status_code, away.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(away.headers["retry-after-ms"]) > 0
        assert http.get("/ready").json()["checks"]["database"]["ok"] is False
        assert "tunepool_up 0.0" in http.get("/metrics").text
        root.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")  # type: ignore[arg-type]
        assert http.get("/v1/fine_tuning/jobs").status_code == 200


def test_an_object_store_that_is_away_is_a_503(sqlite_url: str, tmp_path: Path) -> None:
    own = StorageServer()
    own.start()
    try:
        with run_server(own, sqlite_url, tmp_path) as server, server.http() as http:
            files = {"file": ("t.jsonl", tickets())}
            assert http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).status_code == 200
            own.kill()
            refused = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
            assert http.get("/ready").json()["checks"]["objects"]["ok"] is False
            assert http.get("/v1/files").status_code == 200
    finally:
        own.remove()


def test_tables_of_another_release_are_not_served(tmp_path: Path, postgres_server: PostgresServer) -> None:
    settings = Settings(database_url=postgres_server.url(postgres_server.create_database()), data_dir=tmp_path)
    services = build_services(settings)
    with pytest.raises(StoreUnavailableError) as caught:
        program.prepare(settings, services)
    services.close()
    assert caught.value.code == "schema_too_old"


def _environment(storage: StorageServer, folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TUNEPOOL_DATA_DIR": str(folder),
        "TUNEPOOL_S3_ENDPOINT": storage.endpoint,
        "TUNEPOOL_S3_BUCKET": f"process-{folder.name.replace('_', '-')}-{os.getpid()}"[:60].rstrip("-"),
        "TUNEPOOL_S3_ACCESS_KEY": storage.access_key,
        "TUNEPOOL_S3_SECRET_KEY": storage.secret_key,
        "TUNEPOOL_LOG_FORMAT": "json",
        "TUNEPOOL_API_PORT": "0",
    }


def _add_job(folder: Path) -> str:
    store = Store(f"sqlite:///{folder / 'tunepool.db'}", connections=1)
    with store.write() as tx:
        job_id = add_job(tx).job_id
    store.close()
    return job_id


def test_the_process_ends_quickly_though_a_stream_is_open(storage_server: StorageServer, tmp_path: Path) -> None:
    environment = _environment(storage_server, tmp_path)
    boot = [sys.executable, "-m", "orchestrator", "bootstrap"]
    made = subprocess.run(boot, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    key = json.loads(made.stdout)["api_key"]
    process = subprocess.Popen(
        [sys.executable, "-m", "api"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise AssertionError("".join(said))
        job_id = _add_job(tmp_path)
        url, headers = f"http://127.0.0.1:{found.group(1)}", {"authorization": f"Bearer {key}"}
        with (
            httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as http,
            http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/logs?stream=true") as stream,
        ):
            chunks = stream.iter_raw()
            assert next(chunks).startswith(b"retry:")
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            rest = b"".join(chunks)
            assert process.wait(20) == 0
            assert time.monotonic() - began < 5
            assert b"done" not in rest
        log = process.stderr.read()
        assert key not in log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
