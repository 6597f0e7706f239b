"""Arrays of jobs over HTTP: made once, refused with the value at fault, shown, limited, cancelled."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.openai_clients import tickets
from tests.support.servers import ApiServer

ARRAYS = "/v1/fine_tuning/job_arrays"


@pytest.fixture
def http(api_server: ApiServer) -> Iterator[httpx2.Client]:
    with api_server.http() as opened:
        yield opened


@pytest.fixture
def job(http: httpx2.Client) -> dict[str, Any]:
    files = {"file": ("t.jsonl", tickets())}
    file_id = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()["id"]
    return {"model": "tiny", "training_file": file_id, "suffix": "sweep"}


def test_an_array_from_submission_to_cancel(http: httpx2.Client, job: dict[str, Any]) -> None:
    body = {"job": job, "vary": {"lora.r": [2, 4], "training.learning_rate": [1e-4, 2e-4]}, "max_parallel": 2}
    made = http.post(ARRAYS, json=body, headers={"idempotency-key": "a"}).json()
    assert (made["object"], made["name"], made["total"], made["max_parallel"]) == (
        "fine_tuning.job_array",
        "sweep",
        4,
        2,
    )
    assert made["counts"] == {"validating_files": 4}
    assert made["jobs"][3]["varied"] == {"lora.r": 4, "training.learning_rate": 2e-4}
    assert made["best_job_id"] is None
    assert http.post(ARRAYS, json=body, headers={"idempotency-key": "a"}).json() == made
    first = http.get(f"/v1/fine_tuning/jobs/{made['jobs'][0]['id']}").json()
    assert (first["array_id"], first["lora"]["r"]) == (made["id"], 2)
    assert http.patch(f"{ARRAYS}/{made['id']}", json={"max_parallel": None}).json()["max_parallel"] is None
    assert http.patch(f"{ARRAYS}/{made['id']}", json={}).json()["error"]["param"] == "max_parallel"
    assert http.patch(f"{ARRAYS}/{made['id']}", json={"max_parallel": 0}).status_code == 400
    (listed,) = http.get(ARRAYS).json()["data"]
    assert listed["id"] == made["id"]
    assert "jobs" not in listed
    assert http.post(f"{ARRAYS}/{made['id']}/cancel").json()["counts"] == {"cancelled": 4}
    actions = [entry["action"] for entry in http.get("/v1/audit").json()["data"]]
    assert actions[:3] == ["array.cancel", "array.change", "array.create"]


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"vary": {"lora.r": [2, 0]}}, "invalid_value", "vary.lora.r[1]"),
        ({"vary": {"lora.rank": [2]}}, "unknown_parameter", "vary.lora.rank[0]"),
        (
            {"vary": {"lora.target_modules": ["auto", ["wrong"]]}},
            "unknown_target_modules",
            "vary.lora.target_modules[1]",
        ),
        ({"vary": {"training_file": ["file-nope"]}}, "file_not_found", "vary.training_file[0]"),
        ({"vary": {"lora.r": [2], "model": ["tiny", "nope"]}}, "model_not_found", "vary.model[1]"),
        ({"vary": {"seed": list(range(257))}}, "invalid_value", "vary"),
        ({"vary": {}}, "invalid_value", "vary"),
        ({"vary": {"lora.r": 8}}, "invalid_type", "vary.lora.r"),
        ({"job": {"model": "tiny", "training_file": "file-nope"}}, "file_not_found", "job.training_file"),
        ({"job": {"model": "tiny", "training_file": "f", "lora": {"rank": 1}}}, "unknown_parameter", "job.lora.rank"),
        ({"max_paralel": 2}, "unknown_parameter", "max_paralel"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_nothing_is_made(
    http: httpx2.Client, job: dict[str, Any], changes: dict[str, Any], code: str, param: str
) -> None:
    answer = http.post(ARRAYS, json={"job": job, "vary": {"lora.r": [2, 4]}, **changes})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error
    assert http.get(ARRAYS).json()["data"] == []
    assert http.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_the_largest_array_is_made_within_one_request(http: httpx2.Client, job: dict[str, Any]) -> None:
    made = http.post(ARRAYS, json={"job": job, "vary": {"seed": list(range(256))}}).json()
    assert made["counts"] == {"validating_files": 256}
    assert http.post(f"{ARRAYS}/{made['id']}/cancel").json()["counts"] == {"cancelled": 256}
