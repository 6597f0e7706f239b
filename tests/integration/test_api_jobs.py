"""Jobs over HTTP: every unhappy path has its own error, repeats make one job, and bills are what was stored."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from orchestrator.domain.protocol import Failed, FileProblem, ValidationResult
from tests.support.launchers import GIB, cpu_device
from tests.support.openai_clients import tickets
from tests.support.servers import ApiServer
from tests.support.threads import run_together
from tests.support.trainers import Trainer

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def http(api_server: ApiServer) -> Iterator[httpx2.Client]:
    with api_server.http() as opened:
        yield opened


def _upload(http: httpx2.Client, data: bytes | None = None) -> str:
    files = {"file": ("t.jsonl", tickets() if data is None else data)}
    return str(http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()["id"])


def _submit(http: httpx2.Client, **fields: Any) -> httpx2.Response:
    body = {"model": "tiny", **fields}
    if "training_file" not in body:
        body["training_file"] = _upload(http)
    return http.post(JOBS, json=body)


def _error(answer: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


@pytest.mark.parametrize(
    ("fields", "code", "param", "says"),
    [
        ({"model": "nope"}, "model_not_found", "model", "nope"),
        ({"training_file": "file-nope"}, "file_not_found", "training_file", "file-nope"),
        ({"validation_file": "file-nope"}, "file_not_found", "validation_file", "file-nope"),
        ({"lora": {"target_modules": ["q_proj", "wrong"]}}, "unknown_target_modules", "lora.target_modules", "v_proj"),
        ({"training": {"max_seq_length": 257}}, "invalid_value", "training.max_seq_length", "256"),
        ({"method": {"type": "dpo"}}, "unsupported_method", "method", "supervised"),
        ({"integrations": [{"type": "wandb"}]}, "unsupported_integration", "integrations", "not supported"),
        ({"lora": {"rank": 8}}, "unknown_parameter", "lora.rank", "known here"),
        ({"seed": 2**31}, "invalid_value", "seed", "2147483647"),
        ({"suffix": "a/b"}, "invalid_value", "suffix", "pattern"),
        ({"resources": {"device_type": "h100"}}, "invalid_value", "resources.device_type", "cpu"),
        ({"max_cost_usd": "-1"}, "invalid_value", "max_cost_usd", "greater than 0"),
        ({"training": {"learning_rate": float("1e400")}}, "invalid_json", None, "Infinity"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    api_server: ApiServer, http: httpx2.Client, fields: dict[str, Any], code: str, param: str | None, says: str
) -> None:
    api_server.step()
    if param is None:
        body = '{"model": "tiny", "training_file": "f", "training": {"learning_rate": Infinity}}'
        error = _error(http.post(JOBS, content=body, headers={"content-type": "application/json"}))
    else:
        error = _error(_submit(http, **fields))
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
    assert http.get(JOBS).json()["data"] == []


def test_a_job_that_can_never_fit_is_told_what_would(api_server: ApiServer, http: httpx2.Client) -> None:
    api_server.launcher.devices[0] = cpu_device(total_bytes=GIB)
    api_server.step()
    asked = {"training": {"micro_batch_size": 256, "max_seq_length": 256, "gradient_checkpointing": False}}
    error = _error(_submit(http, **asked))
    assert (error["code"], error["param"]) == ("cannot_fit", "resources")
    assert "1.0 GiB" in error["message"]
    assert "micro_batch_size" in error["message"]
    estimate = http.post("/v1/estimates", json={"model": "tiny", "rows": 1000, **asked}).json()
    (fit,) = estimate["devices"]
    assert (fit["fit"], fit["largest_bytes"]) == ("never", GIB)
    assert fit["needed_bytes"] == estimate["memory"]["cpu"]["total_bytes"] > GIB
    memory = estimate["memory"]["cpu"]
    assert 0 < memory["allocated_bytes"] <= memory["reserved_bytes"] <= memory["device_bytes"] <= memory["total_bytes"]
    assert (memory["method"], memory["reason"]) == ("closed_form", "TUNEPOOL_ESTIMATOR is closed_form")
    assert memory["savings"][0]["settings"] == {"training.gradient_checkpointing": True}
    assert memory["savings"][0]["time_factor"] > 1
    assert fit["changes"][0]["saved_bytes"] == memory["total_bytes"] - fit["changes"][0]["total_bytes"]
    changed: dict[str, Any] = {"training": dict(asked["training"])}
    for name, value in fit["changes"][0]["settings"].items():
        part, _, key = name.partition(".")
        changed.setdefault(part, {})[key] = value
    again = http.post("/v1/estimates", json={"model": "tiny", "rows": 1000, **changed}).json()
    assert again["devices"][0]["fit"] == "now"


def test_too_few_rows_and_files_of_jobs_are_refused(api_server: ApiServer, http: httpx2.Client) -> None:
    job = _submit(http).json()
    Trainer(api_server, job["id"]).begin()
    Trainer(api_server, job["id"]).succeed()
    (results,) = http.get(f"{JOBS}/{job['id']}").json()["result_files"]
    assert _error(_submit(http, training_file=results))["code"] == "wrong_file_purpose"
    assert http.delete(f"/v1/files/{job['training_file']}").status_code == 200
    assert _error(_submit(http, training_file=job["training_file"]))["code"] == "file_not_found"


def test_what_only_tokenizing_shows_ends_the_job_with_the_line(api_server: ApiServer, http: httpx2.Client) -> None:
    job = _submit(http).json()
    problem = FileProblem(
        param="training_file", line=7, code="example_too_long", message="has 300 tokens, the context is 256"
    )
    api_server.launcher.validation = ValidationResult(training=None, validation=None, problems=(problem,))
    api_server.step()
    failed = http.get(f"{JOBS}/{job['id']}").json()
    assert failed["status"] == "failed"
    assert (failed["error"]["code"], failed["error"]["param"]) == ("example_too_long", "training_file")
    assert "line 7" in failed["error"]["message"]
    assert failed["finished_at"] >= failed["created_at"]
    assert failed["cost"] | {"final": True} == failed["cost"]


def test_a_failure_says_whose_fault_it_was_and_what_to_do(api_server: ApiServer, http: httpx2.Client) -> None:
    job = _submit(
        http,
        training={"micro_batch_size": 1, "gradient_checkpointing": False},
        resources={"exclusive": True},
    ).json()
    trainer = Trainer(api_server, job["id"])
    trainer.begin()
    trainer.report(Failed(failure="out_of_memory", message="12 GiB were asked for, 8 are free."))
    api_server.step()
    failed = http.get(f"{JOBS}/{job['id']}").json()
    (attempt,) = http.get(f"{JOBS}/{job['id']}/attempts").json()["data"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "out_of_memory")
    assert "12 GiB" in failed["error"]["message"]
    assert (attempt["state"], attempt["failure"]["blame"]) == ("failed", "platform")
    assert "micro_batch_size" in attempt["failure"]["hint"]
    assert "The smallest change with which it should fit" in failed["error"]["message"]


def test_the_bill_is_the_sum_of_its_entries_and_of_the_teams_bill(api_server: ApiServer, http: httpx2.Client) -> None:
    http.post("/v1/pool/prices", json={"device_type": "cpu", "usd_per_hour": "3600"})
    job = _submit(http, resources={"exclusive": True}).json()
    trainer = Trainer(api_server, job["id"])
    trainer.begin()
    trainer.train(1, 3)
    running = http.get(f"{JOBS}/{job['id']}/cost").json()
    assert (running["final"], running["entries"]) == (False, [])
    assert running["billed_usd_micros"] == running["running_usd_micros"] > 0
    trainer.succeed()
    bill = http.get(f"{JOBS}/{job['id']}/cost").json()
    (entry,) = bill["entries"]
    assert bill["final"]
    assert (entry["price_usd_micros_per_hour"], entry["attempt"], entry["billed"]) == (3_600_000_000, 1, True)
    assert entry["reserved_bytes"] == entry["device_bytes"]
    assert abs(entry["amount_usd_micros"] - entry["seconds"] * 1e6) <= 1
    assert bill["billed_usd_micros"] == entry["amount_usd_micros"]
    assert bill["billed_usd"] == f"{entry['amount_usd_micros'] / 1e6:.6f}"
    costs = http.get("/v1/costs").json()
    shown = http.get(f"{JOBS}/{job['id']}").json()["cost"]
    assert costs["billed_usd_micros"] == shown["billed_usd_micros"] == bill["billed_usd_micros"]


def test_fifty_at_once_with_one_key_make_one_job(api_server: ApiServer, http: httpx2.Client) -> None:
    body = {"model": "tiny", "training_file": _upload(http)}

    def submit() -> str:
        with api_server.http(**{"idempotency-key": "fifty"}) as own:
            answer = own.post(JOBS, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    ids = run_together([submit] * 50)
    assert len(set(ids)) == 1
    assert [job["id"] for job in http.get(JOBS).json()["data"]] == [ids[0]]


def test_the_same_key_for_the_same_wish_in_other_words_is_the_same_request(http: httpx2.Client) -> None:
    file_id, headers = _upload(http), {"idempotency-key": "k"}
    first = http.post(JOBS, json={"model": "tiny", "training_file": file_id}, headers=headers)
    turned = http.post(JOBS, json={"training_file": file_id, "model": "tiny"}, headers=headers)
    other = http.post(JOBS, json={"training_file": file_id, "model": "tiny", "priority": 1}, headers=headers)
    assert first.json()["id"] == turned.json()["id"]
    assert _error(other, 409)["code"] == "idempotency_key_reused"
    assert other.headers["x-should-retry"] == "false"


def test_verbs_take_an_empty_body_with_a_json_content_type(http: httpx2.Client) -> None:
    job = _submit(http).json()
    headers = {"content-type": "application/json"}
    for verb, status in (("pause", "paused"), ("resume", "validating_files"), ("cancel", "cancelled")):
        answer = http.post(f"{JOBS}/{job['id']}/{verb}", headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    gone = http.request("DELETE", f"/v1/files/{job['training_file']}", headers=headers)
    assert gone.json()["deleted"] is True


def test_an_admin_submits_for_another_team_and_sees_every_teams_jobs(
    api_server: ApiServer, http: httpx2.Client
) -> None:
    team_id = api_server.make_team("science")
    with api_server.http(api_server.make_key(team="science")) as theirs:
        file_id = _upload(theirs)
        assert _error(_submit(theirs, training_file=file_id, team="default"), 403)["code"] == "permission_denied"
        job = _submit(http, training_file=file_id, team="science").json()
        assert (job["team"], job["organization_id"]) == ("science", team_id)
        assert theirs.get(f"{JOBS}/{job['id']}").json()["team"] == "science"
    assert [found["team"] for found in http.get(JOBS).json()["data"]] == ["science"]
    assert _error(_submit(http, training_file=file_id, team="nobody"))["param"] == "team"


def test_adapters_are_downloaded_three_ways(api_server: ApiServer, http: httpx2.Client) -> None:
    job_id = _submit(http).json()["id"]
    trainer = Trainer(api_server, job_id)
    trainer.begin()
    trainer.succeed()
    job = http.get(f"{JOBS}/{job_id}").json()
    adapter = http.get(f"/v1/adapters/{job['adapter_id']}").json()
    manifest = http.get(f"/v1/adapters/{job['adapter_id']}/manifest").json()
    listed = http.get(f"/v1/adapters/{job['adapter_id']}/files").json()
    tar = http.get(f"/v1/adapters/{job['adapter_id']}/tar")
    assert (adapter["name"], adapter["job_id"]) == (job["fine_tuned_model"], job_id)
    assert manifest["spec"]["training_file"] == job["training_file"]
    assert {file["name"] for file in listed["data"]} == {file["name"] for file in adapter["files"]}
    assert listed["expires_in_seconds"] == api_server.settings.presigned_seconds
    assert tar.headers["content-length"] == str(len(tar.content))
    assert tar.headers["content-type"] == "application/x-tar"
    for file in listed["data"]:
        fetched = httpx2.get(file["url"], trust_env=False, verify=False)
        assert len(fetched.content) == file["size_bytes"]
        assert fetched.content in tar.content
    assert http.delete(f"/v1/adapters/{job['adapter_id']}").json()["deleted"] is True
    assert http.get(f"/v1/adapters/{job['adapter_id']}/tar").status_code == 404
    assert http.get(f"{JOBS}/{job_id}").json()["adapter_id"] is None


def test_the_pool_shows_what_runs_and_whose_only_to_its_team(api_server: ApiServer, http: httpx2.Client) -> None:
    job_id = _submit(http).json()["id"]
    Trainer(api_server, job_id).begin()
    api_server.make_team("strangers")
    (device,) = http.get("/v1/pool").json()["devices"]
    (use,) = device["uses"]
    assert use["job_id"] == job_id
    assert device["free_bytes"] == device["usable_bytes"] - use["reserved_bytes"] > 0
    with api_server.http(api_server.make_key(team="strangers")) as theirs:
        (hidden,) = theirs.get("/v1/pool").json()["devices"][0]["uses"]
    assert hidden == {**use, "job_id": None, "attempt_id": None, "team_id": None}


def test_a_key_that_is_revoked_is_refused_from_then_on(api_server: ApiServer, http: httpx2.Client) -> None:
    made = http.post("/v1/keys", json={"name": "laptop", "role": "viewer", "expires_in_seconds": 3600}).json()
    assert made["secret"].startswith(made["prefix"])
    with api_server.http(made["secret"]) as own:
        assert own.get(JOBS).status_code == 200
        assert http.delete(f"/v1/keys/{made['id']}").json()["deleted"] is True
        assert _error(own.get(JOBS), 401)["code"] == "revoked_api_key"
    shown = {key["id"]: key for key in http.get("/v1/keys").json()["data"]}[made["id"]]
    assert shown["revoked_at"] is not None
    own_id = next(key["id"] for key in http.get("/v1/keys").json()["data"] if key["name"] == "first admin")
    assert _error(http.delete(f"/v1/keys/{own_id}"), 409)["code"] == "conflict"
