"""Tunepool's own Python client against the real API: what it expects is what is sent."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import stamina

from api.client import Tunepool
from api.client.errors import ApiError
from api.client.files import Files
from api.client.teams import Teams
from api.client.transport import Transport
from tests.support.openai_clients import LostAnswers, tickets
from tests.support.servers import ApiServer
from tests.support.trainers import working


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[Tunepool]:
    with Tunepool(api_server.url, api_server.admin_key) as opened:
        yield opened


def _write_rows(folder: Path, count: int = 12) -> Path:
    path = folder / "tickets.jsonl"
    path.write_bytes(tickets(count))
    return path


def test_a_job_from_submission_to_download(api_server: ApiServer, client: Tunepool, tmp_path: Path) -> None:
    file = client.files.create(_write_rows(tmp_path))
    estimate = client.estimates.create(model="tiny", training_file=file.id)
    assert estimate.model_extra is not None
    with working(api_server):
        job = client.jobs.create(model="tiny", training_file=file.id, metadata={"a": "b"}, suffix="mine")
        lines = [line.text for line in client.jobs.logs(job.id, follow=True)]
        done = client.jobs.wait(job.id, timeout_seconds=60)
    assert done.status == "succeeded"
    assert done.progress is not None
    assert lines == [f"step {n}" for n in [1, 2, *range(3, (done.progress.total_steps or 0) + 1)]]
    assert [line.text for line in client.jobs.logs(job.id)] == lines
    assert [m.step for m in client.jobs.metrics(job.id)] == [m.step for m in client.jobs.metrics(job.id, follow=True)]
    assert list(client.jobs.events(job.id)) == list(client.jobs.events(job.id, follow=True))
    assert client.jobs.cost(job.id).billed_usd_micros == (done.cost.billed_usd_micros if done.cost else None)
    assert [attempt.state for attempt in client.jobs.attempts(job.id)] == ["succeeded"]
    assert [checkpoint.step_number for checkpoint in client.jobs.checkpoints(job.id)] == [2]
    folder = client.adapters.download(done, tmp_path / "adapter")
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "manifest.json"} <= names
    assert json.loads((folder / "manifest.json").read_text())["name"] == done.fine_tuned_model
    assert [found.id for found in client.jobs.list(metadata={"a": "b"})] == [job.id]
    assert done.adapter_id is not None
    assert client.adapters.delete(done.adapter_id).deleted


def test_the_archive_is_a_tar_that_unpacks(api_server: ApiServer, client: Tunepool, tmp_path: Path) -> None:
    with working(api_server):
        job = client.jobs.create(
            model="tiny", training_file=client.files.create(_write_rows(tmp_path)).id, metadata={"a": "b"}
        )
        done = client.jobs.wait(job.id, timeout_seconds=60)
    path = tmp_path / "adapter.tar"
    with api_server.http() as http:
        path.write_bytes(http.get(f"/v1/adapters/{done.adapter_id}/tar").content)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert (tmp_path / "unpacked" / "adapter_model.safetensors").stat().st_size > 1000


def test_what_admins_do(client: Tunepool, api_server: ApiServer, tiny_model: Path) -> None:
    api_server.step()
    assert client.base_models.create(name="again", location=str(tiny_model)).source == "path"
    assert {model.id for model in client.base_models.list()} == {"tiny", "again"}
    assert {model.id for model in client.models.list()} == {"tiny", "again"}
    assert client.base_models.delete("again").deleted
    price = client.prices.create(device_type="cpu", usd_per_hour="0.35")
    assert (price.usd_micros_per_hour, client.prices.list()[0].usd_per_hour) == (350_000, "0.350000")
    assert client.pool.get().devices[0].free_bytes > 0
    team = client.teams.create(name="science")
    key = client.keys.create(name="laptop", role="viewer", team="science")
    assert key.secret is not None
    assert key.id in {found.id for found in client.keys.list()}
    with Tunepool(api_server.url, key.secret) as viewer:
        assert [found.name for found in viewer.teams.list()] == [team.name]
        with pytest.raises(ApiError) as caught:
            viewer.teams.create(name="x")
        assert caught.value.status == 403
    assert client.keys.revoke(key.id).deleted


def test_what_a_client_sends_again_is_made_once(api_server: ApiServer, tmp_path: Path) -> None:
    """The answers to its first sends are lost."""
    transport = Transport(api_server.url, api_server.admin_key, max_retries=2)
    network = LostAnswers(losses=2)
    transport.http.close()
    transport.http = httpx2.Client(base_url=api_server.url, headers=transport.http.headers, transport=network)
    files, teams = Files(transport), Teams(transport)
    try:
        with stamina.set_testing(True, attempts=3, cap=True):
            file = files.create(_write_rows(tmp_path))
            network.losses = 2
            team = teams.create(name="science")
        assert [request.url.path for request in network.sent] == ["/v1/files"] * 3 + ["/v1/teams"] * 3
        assert [found.id for found in files.all()] == [file.id]
        assert team.id in {found.id for found in teams.list()}
        with pytest.raises(ApiError) as caught:
            teams.create(name="science")
        assert caught.value.status == 409
    finally:
        transport.close()
