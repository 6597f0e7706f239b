"""Who may call what: every route against every kind of key. A route without a line in PLACES fails the first test."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import update

from api.app import describe_app
from api.auth import PUBLIC_FOLDERS, PUBLIC_PATHS
from orchestrator.domain.teams import Role
from orchestrator.services.keys import make_secret
from orchestrator.store.tables.accounts import api_keys
from tests.support.databases import copy_template
from tests.support.servers import ApiServer, run_server
from tests.support.storage import StorageServer
from tests.support.trainers import Trainer

PUBLIC, READER, WRITER, ADMIN = "public", "reader", "writer", "admin"
JOB = "/v1/fine_tuning/jobs/{job_id}"
ARRAYS = "/v1/fine_tuning/job_arrays"
PART = {"files": {"data": ("upload", b"more")}}


@dataclass(frozen=True)
class Place:
    """Who may call it, what a valid request carries, and whether its id is a team's (else it is the whole pool's)."""

    needs: str
    request: dict[str, Any] = field(default_factory=dict)
    foreign: bool = True


PLACES: dict[tuple[str, str], Place] = {
    ("GET", "/health"): Place(PUBLIC),
    ("GET", "/ready"): Place(PUBLIC),
    ("GET", "/metrics"): Place(READER),
    ("GET", "/openapi.json"): Place(PUBLIC),
    ("POST", "/v1/files"): Place(WRITER, {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"{}")}}),
    ("GET", "/v1/files"): Place(READER),
    ("GET", "/v1/files/{file_id}"): Place(READER),
    ("DELETE", "/v1/files/{file_id}"): Place(WRITER),
    ("GET", "/v1/files/{file_id}/content"): Place(READER),
    ("POST", "/v1/uploads"): Place(
        WRITER, {"json": {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "fine-tune"}}
    ),
    ("POST", "/v1/uploads/{upload_id}/parts"): Place(WRITER, PART),
    ("POST", "/v1/uploads/{upload_id}/complete"): Place(WRITER, {"json": {"part_ids": ["part_1"]}}),
    ("POST", "/v1/uploads/{upload_id}/cancel"): Place(WRITER),
    ("POST", "/v1/fine_tuning/jobs"): Place(WRITER, {"json": {"model": "tiny", "training_file": "file-unknown"}}),
    ("GET", "/v1/fine_tuning/jobs"): Place(READER),
    ("POST", ARRAYS): Place(
        WRITER, {"json": {"job": {"model": "tiny", "training_file": "file-unknown"}, "vary": {"lora.r": [8]}}}
    ),
    ("GET", ARRAYS): Place(READER),
    ("GET", ARRAYS + "/{array_id}"): Place(READER),
    ("PATCH", ARRAYS + "/{array_id}"): Place(WRITER, {"json": {"max_parallel": 2}}),
    ("POST", ARRAYS + "/{array_id}/cancel"): Place(WRITER),
    ("GET", JOB): Place(READER),
    ("PATCH", JOB): Place(WRITER, {"json": {"priority": 1}}),
    ("POST", JOB + "/cancel"): Place(WRITER),
    ("POST", JOB + "/pause"): Place(WRITER),
    ("POST", JOB + "/resume"): Place(WRITER),
    ("GET", JOB + "/why"): Place(READER),
    ("GET", JOB + "/events"): Place(READER),
    ("GET", JOB + "/logs"): Place(READER),
    ("GET", JOB + "/metrics"): Place(READER),
    ("GET", JOB + "/checkpoints"): Place(READER),
    ("GET", JOB + "/attempts"): Place(READER),
    ("GET", JOB + "/cost"): Place(READER),
    ("POST", "/v1/estimates"): Place(READER, {"json": {"model": "tiny", "rows": 10}}),
    ("GET", "/v1/estimates/accuracy"): Place(READER, foreign=False),
    ("GET", "/v1/models"): Place(READER),
    ("GET", "/v1/models/{model}"): Place(READER),
    ("DELETE", "/v1/models/{model}"): Place(WRITER),
    ("POST", "/v1/base_models"): Place(ADMIN, {"json": {"name": "x", "location": "nowhere"}}),
    ("GET", "/v1/base_models"): Place(READER),
    ("GET", "/v1/base_models/{model}"): Place(READER, foreign=False),
    ("DELETE", "/v1/base_models/{model}"): Place(ADMIN, foreign=False),
    ("GET", "/v1/adapters"): Place(READER),
    ("GET", "/v1/adapters/{adapter_id}"): Place(READER),
    ("GET", "/v1/adapters/{adapter_id}/manifest"): Place(READER),
    ("GET", "/v1/adapters/{adapter_id}/files"): Place(READER),
    ("GET", "/v1/adapters/{adapter_id}/tar"): Place(READER),
    ("DELETE", "/v1/adapters/{adapter_id}"): Place(WRITER),
    ("GET", "/v1/pool"): Place(READER),
    ("GET", "/v1/pool/history"): Place(READER),
    ("POST", "/v1/pool/nodes/{node_name}/{wish}"): Place(ADMIN, foreign=False),
    ("GET", "/v1/pool/prices"): Place(READER),
    ("POST", "/v1/pool/prices"): Place(ADMIN, {"json": {"device_type": "cpu", "usd_per_hour": "1"}}),
    ("POST", "/v1/teams"): Place(ADMIN, {"json": {"name": "new-team"}}),
    ("GET", "/v1/teams"): Place(READER),
    ("GET", "/v1/teams/shares"): Place(READER),
    ("GET", "/v1/teams/{team_id}"): Place(READER),
    ("PATCH", "/v1/teams/{team_id}"): Place(ADMIN, {"json": {"weight": 2}}, foreign=False),
    ("GET", "/v1/audit"): Place(READER),
    ("POST", "/v1/keys"): Place(ADMIN, {"json": {"name": "new"}}),
    ("GET", "/v1/keys"): Place(READER),
    ("DELETE", "/v1/keys/{key_id}"): Place(ADMIN, foreign=False),
    ("GET", "/v1/costs"): Place(READER),
    ("GET", "/v1/usage"): Place(READER),
    ("GET", "/v1/simulation/history"): Place(ADMIN),
    ("GET", "/"): Place(READER),
    ("GET", "/jobs"): Place(READER),
    ("POST", "/jobs/compare"): Place(READER, {"data": {"job": "ftjob-unknown"}}),
    ("POST", "/jobs/cancel"): Place(WRITER, {"data": {"job": "ftjob-unknown"}}),
    ("GET", "/jobs/{job_id}"): Place(READER),
    ("GET", "/jobs/{job_id}/head"): Place(READER),
    ("POST", "/jobs/{job_id}/cancel"): Place(WRITER),
    ("POST", "/jobs/{job_id}/pause"): Place(WRITER),
    ("POST", "/jobs/{job_id}/resume"): Place(WRITER),
    ("POST", "/jobs/{job_id}/hold"): Place(WRITER),
    ("POST", "/jobs/{job_id}/release"): Place(WRITER),
    ("POST", "/jobs/{job_id}/queue"): Place(WRITER, {"data": {"priority": "1"}}),
    ("POST", "/jobs/{job_id}/retry"): Place(WRITER),
    ("GET", "/compare"): Place(READER),
    ("GET", "/new"): Place(READER),
    ("POST", "/new"): Place(WRITER, {"data": {"model": "tiny", "training_file": "file-unknown"}}),
    ("POST", "/new/preview"): Place(READER),
    ("GET", "/data"): Place(READER),
    ("POST", "/data"): Place(WRITER, {"files": {"file": ("a", b"{}")}}),
    ("GET", "/data/{file_id}"): Place(READER),
    ("GET", "/data/{file_id}/tokens"): Place(READER, {"params": {"model": "unknown"}}),
    ("POST", "/data/{file_id}/delete"): Place(WRITER),
    ("GET", "/pool"): Place(READER),
    ("GET", "/pool/history"): Place(READER),
    ("POST", "/pool/nodes/{node_name}/{wish}"): Place(ADMIN, foreign=False),
    ("GET", "/models"): Place(READER),
    ("POST", "/models"): Place(ADMIN, {"data": {"name": "x", "location": "nowhere"}}),
    ("POST", "/models/{model}/delete"): Place(ADMIN, foreign=False),
    ("GET", "/teams"): Place(READER),
    ("GET", "/teams/audit"): Place(READER),
    ("GET", "/teams/{team_id}"): Place(READER),
    ("POST", "/teams/{team_id}/terms"): Place(ADMIN, {"data": {"weight": "2"}}, foreign=False),
    ("POST", "/teams/{team_id}/budget"): Place(ADMIN, {"data": {"remove": "yes"}}, foreign=False),
    ("POST", "/teams"): Place(ADMIN, {"data": {"name": "new-team"}}),
    ("POST", "/teams/keys"): Place(ADMIN, {"data": {"name": "new"}}),
    ("POST", "/teams/keys/{key_id}/revoke"): Place(ADMIN, foreign=False),
    ("GET", "/reports"): Place(READER),
    ("POST", "/logout"): Place(READER),
}
PUBLIC_PAGES = {
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/theme"),
    ("GET", "/static/{build}/{name}"),
    ("GET", "/docs"),
    ("GET", "/docs/{name}"),
}
"""Of the dashboard, for those who have no key yet; tests/integration/test_dashboard_http.py is about them."""
ADDRESSES = list(PLACES.items())
NAMES = [f"{method} {path}" for method, path in PLACES]
WITH_ID = [item for item in ADDRESSES if "{" in item[0][1] and item[1].foreign]


def test_every_route_has_a_line_here() -> None:
    found = {
        (method, str(route.path).replace(":path}", "}"))
        for route in iter_route_contexts(describe_app().routes)
        for method in (route.methods or ())
        if method != "HEAD"
    }
    assert len(found) > 40
    assert found - PUBLIC_PAGES == set(PLACES)


def test_the_public_list_is_what_is_public_here() -> None:
    public = {path for (_, path), place in PLACES.items() if place.needs == PUBLIC}
    pages = {path for _, path in PUBLIC_PAGES if not path.startswith(PUBLIC_FOLDERS)}
    assert public | pages == PUBLIC_PATHS


@dataclass(frozen=True)
class World:
    """One team's things, keys of every kind, and a stranger's key."""

    server: ApiServer
    ids: dict[str, str]
    keys: dict[str, str]

    def call(self, key: str, method: str, path: str, request: dict[str, Any]) -> httpx2.Response:
        with self.server.http(self.keys.get(key, key)) as http:
            return http.request(method, path, **request)

    def fill(self, path: str, *, unknown: bool = False) -> str:
        for name, value in self.ids.items():
            path = path.replace("{" + name + "}", value[:-4] + "beef" if unknown else value)
        assert "{" not in path
        return path


@pytest.fixture(scope="module")
def world(
    storage_server: StorageServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("access")
    url = copy_template(sqlite_template, folder)
    with run_server(storage_server, url, folder, model_roots=(tiny_model.parent,)) as server:
        server.services.models.add(server.admin, "tiny", str(tiny_model))
        yield _fill_world(server)


def _fill_world(server: ApiServer) -> World:
    owners = server.make_team("owners")
    server.make_team("strangers")
    create = server.services.keys.create
    keys = {
        "viewer": server.make_key(Role.VIEWER, team="owners"),
        "member": server.make_key(team="owners"),
        "admin": server.admin_key,
        "stranger": server.make_key(team="strangers"),
        "unknown": make_secret(),
        "malformed": "sk-not-one-of-ours",
    }
    revoked = create(server.admin, name="revoked", role=Role.ADMIN)
    server.services.keys.revoke(server.admin, revoked.key.key_id)
    expired = create(server.admin, name="expired", role=Role.ADMIN, expires_in_seconds=60)
    with server.services.store.write() as tx:
        was = {"expires_at": tx.now() - timedelta(seconds=1)}
        tx.execute(update(api_keys).where(api_keys.c.key_id == expired.key.key_id).values(was))
    keys |= {"revoked": revoked.secret, "expired": expired.secret}
    with server.http(keys["member"]) as http:
        ids = _make_things(server, http)
    ids |= {"team_id": owners, "key_id": revoked.key.key_id, "node_name": "node-none", "wish": "cordon"}
    return World(server, ids, keys)


def _make_things(server: ApiServer, http: httpx2.Client) -> dict[str, str]:
    """A file, an upload with a part, and a job that has succeeded, so that it has everything a job can have."""
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    data = "\n".join(json.dumps(row) for _ in range(12))
    file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", data)}).json()
    ask = {"bytes": 4, "filename": "b.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    upload = http.post("/v1/uploads", json=ask).json()
    part = http.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("upload", b"{}{}")}).json()
    job = http.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file["id"]}).json()
    ask = {"job": {"model": "tiny", "training_file": file["id"]}, "vary": {"lora.r": [4, 8]}}
    array = http.post(ARRAYS, json=ask).json()
    assert http.post(f"{ARRAYS}/{array['id']}/cancel").json()["counts"] == {"cancelled": 2}
    trainer = Trainer(server, job["id"])
    trainer.begin()
    trainer.train(1, 2)
    trainer.save(2)
    trainer.succeed()
    job = http.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
    return {
        "file_id": file["id"],
        "upload_id": upload["id"],
        "part_id": part["id"],
        "job_id": job["id"],
        "array_id": array["id"],
        "adapter_id": job["adapter_id"],
        "model": job["fine_tuned_model"],
    }


@pytest.mark.parametrize("key", ["", "malformed", "unknown", "revoked", "expired"])
@pytest.mark.parametrize(("address", "place"), ADDRESSES, ids=NAMES)
def test_without_a_valid_key_only_public_routes_answer(
    world: World, address: tuple[str, str], place: Place, key: str
) -> None:
    method, path = address
    answer = world.call(key, method, world.fill(path), place.request)
    if place.needs == PUBLIC:
        assert answer.status_code in {200, 503}
        return
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    secret = world.keys.get(key, key)
    assert not secret or secret not in answer.text


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Token x", "Bearer " + "x" * 1000, "x"])
def test_another_authorization_header_is_no_key(world: World, header: str) -> None:
    with world.server.http("") as http:
        assert http.get("/v1/models", headers={"authorization": header}).status_code == 401


def test_even_an_unknown_address_needs_a_key(world: World) -> None:
    assert world.call("", "GET", "/v1/secrets", {}).status_code == 401
    assert world.call("viewer", "GET", "/v1/secrets", {}).status_code == 404
    assert world.call("", "GET", "/health/../v1/models", {}).status_code == 401
    assert world.call("", "GET", "//health", {}).status_code == 401


@pytest.mark.parametrize(("address", "place"), ADDRESSES, ids=NAMES)
def test_a_role_opens_what_it_is_for_and_nothing_more(world: World, address: tuple[str, str], place: Place) -> None:
    """With ids that do not exist, so that what is allowed answers 404 or 400 and changes nothing."""
    method, path = address
    may = {PUBLIC: 3, READER: 3, WRITER: 2, ADMIN: 1}[place.needs]
    for rank, key in enumerate(("admin", "member", "viewer"), start=1):
        if rank <= may and method != "GET" and "{" not in path:
            continue  # would really create something; tested elsewhere
        answer = world.call(key, method, world.fill(path, unknown=True), place.request)
        assert (answer.status_code == 403) == (rank > may), (key, answer.text)
        if answer.status_code == 403:
            assert answer.json()["error"]["code"] == "permission_denied"


@pytest.mark.parametrize(("address", "place"), WITH_ID, ids=[f"{m} {p}" for (m, p), _ in WITH_ID])
def test_another_teams_things_are_as_if_they_were_not_there(
    world: World, address: tuple[str, str], place: Place
) -> None:
    method, path = address
    theirs = world.call("stranger", method, world.fill(path), place.request)
    nobodys = world.call("stranger", method, world.fill(path, unknown=True), place.request)
    assert theirs.status_code == nobodys.status_code == 404
    said, known = theirs.text, nobodys.text
    for name, value in world.ids.items():
        said, known = said.replace(value, name), known.replace(value[:-4] + "beef", name)
    assert said == known


@pytest.mark.parametrize("kind", ["events", "logs", "metrics"])
def test_another_teams_job_cannot_be_followed(world: World, kind: str) -> None:
    path = world.fill(f"{JOB}/{kind}?stream=true")
    assert world.call("stranger", "GET", path, {}).status_code == 404
    assert world.call("viewer", "GET", path, {}).status_code == 200


def test_ids_in_bodies_and_cursors_are_judged_too(world: World) -> None:
    ids, call = world.ids, world.call
    job = {"json": {"model": "tiny", "training_file": ids["file_id"]}}
    validation = {"json": {"model": "tiny", "training_file": "file-x", "validation_file": ids["file_id"]}}
    upload = call(
        "stranger",
        "POST",
        "/v1/uploads",
        {"json": {"bytes": 4, "filename": "b", "mime_type": "text/jsonl", "purpose": "fine-tune"}},
    ).json()
    part = {"json": {"part_ids": [ids["part_id"]]}}
    team = {"json": {"model": "tiny", "training_file": "file-x", "team": "owners"}}
    assert call("stranger", "POST", "/v1/fine_tuning/jobs", job).json()["error"]["code"] == "file_not_found"
    assert call("stranger", "POST", "/v1/fine_tuning/jobs", validation).status_code == 400
    assert call("stranger", "POST", "/v1/estimates", job).json()["error"]["code"] == "file_not_found"
    assert call("stranger", "POST", f"/v1/uploads/{upload['id']}/complete", part).json()["error"]["param"] == "part_ids"
    assert call("stranger", "POST", "/v1/fine_tuning/jobs", team).status_code == 403
    for path, after in (("files", "file_id"), ("fine_tuning/jobs", "job_id"), ("adapters", "adapter_id")):
        answer = call("stranger", "GET", f"/v1/{path}?after={ids[after]}", {})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_lists_hold_only_ones_own(world: World) -> None:
    for path in ("files", "fine_tuning/jobs", "fine_tuning/job_arrays", "adapters"):
        assert world.call("stranger", "GET", f"/v1/{path}", {}).json()["data"] == []
        assert world.call("viewer", "GET", f"/v1/{path}", {}).json()["data"] != []
        assert world.call("admin", "GET", f"/v1/{path}", {}).json()["data"] != []
    names = {model["id"] for model in world.call("stranger", "GET", "/v1/models", {}).json()["data"]}
    assert "tiny" in names
    assert world.ids["model"] not in names
    assert [t["name"] for t in world.call("stranger", "GET", "/v1/teams", {}).json()["data"]] == ["strangers"]
    assert {k["team_id"] for k in world.call("viewer", "GET", "/v1/keys", {}).json()["data"]} == {world.ids["team_id"]}
    assert "secret" not in world.call("admin", "GET", "/v1/keys", {}).text


def test_the_organization_header_must_be_the_keys_own_team(world: World) -> None:
    for header in ("openai-organization", "openai-project"):
        with world.server.http(world.keys["member"]) as http:
            refused = http.get("/v1/models", headers={header: "org-from-openai"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "mismatched_organization")
            assert http.get("/v1/models", headers={header: "owners"}).status_code == 200
            assert http.get("/v1/models", headers={header: world.ids["team_id"]}).status_code == 200


def test_what_strangers_tried_has_changed_nothing(world: World) -> None:
    """Runs last in this file; also right when it runs alone."""
    for key in ("file_id", "job_id", "adapter_id"):
        path = {"file_id": "/v1/files/", "job_id": "/v1/fine_tuning/jobs/", "adapter_id": "/v1/adapters/"}[key]
        answer = world.call("member", "GET", path + world.ids[key], {})
        assert answer.status_code == 200
    assert world.call("member", "GET", JOB.replace("{job_id}", world.ids["job_id"]), {}).json()["status"] == "succeeded"
