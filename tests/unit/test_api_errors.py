"""Every error has a status, and whatever goes wrong, the answer is the envelope."""

import json
from collections.abc import Iterator

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from prometheus_client import CollectorRegistry

from api.errors import STATUS, find_status, install_handlers
from api.metrics import HttpMetrics
from api.middleware import RequestContext
from api.requests import JsonRoute
from api.schemas.submissions import JobCreate
from orchestrator.domain import errors
from orchestrator.domain.errors import TunepoolError
from orchestrator.settings import Settings


def _tree(cls: type[TunepoolError]) -> Iterator[type[TunepoolError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


ALL_ERRORS = sorted(
    {cls for cls in _tree(TunepoolError) if cls.__module__ == errors.__name__}, key=lambda c: c.__name__
)


def test_every_error_class_has_a_status() -> None:
    assert len(ALL_ERRORS) >= 20
    assert set(ALL_ERRORS) == set(STATUS)


def test_a_class_without_a_row_takes_the_status_of_its_parent() -> None:
    class SpecialConflictError(errors.ConflictError):
        pass

    assert find_status(SpecialConflictError()) == 409


def _app() -> FastAPI:
    router = APIRouter(prefix="/v1", route_class=JsonRoute)

    @router.get("/raise/{name}")
    def raise_error(name: str) -> None:
        raise next(cls for cls in ALL_ERRORS if cls.__name__ == name)("as it is said", param="a.b")

    @router.get("/bug")
    def bug() -> None:
        raise RuntimeError("secret detail")

    @router.post("/jobs")
    def create(body: JobCreate) -> dict[str, str]:
        return {"model": body.model}

    @router.get("/limited")
    def limited(limit: int) -> int:
        return limit

    app = FastAPI(docs_url=None, redoc_url=None)
    app.state.settings = Settings(max_body_bytes=4096)
    app.include_router(router)
    install_handlers(app)
    app.add_middleware(RequestContext, metrics=HttpMetrics(CollectorRegistry()))
    return app


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(_app(), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def _error(response: Response) -> dict[str, str | None]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert response.headers["x-request-id"]
    return dict(body["error"])


@pytest.mark.parametrize("cls", ALL_ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_is_answered_in_the_envelope(client: TestClient, cls: type[TunepoolError]) -> None:
    response = client.get(f"/v1/raise/{cls.__name__}")
    error = _error(response)
    assert response.status_code == STATUS[cls]
    if response.status_code == 500:
        assert error["code"] == "internal_error"
        assert "as it is said" not in str(error["message"])
        assert response.headers["x-request-id"] in str(error["message"])
    else:
        assert (error["message"], error["code"], error["param"]) == ("as it is said", cls.code, "a.b")


def test_the_stock_client_is_told_what_repeating_helps(client: TestClient) -> None:
    hints = {cls.__name__: client.get(f"/v1/raise/{cls.__name__}").headers.get("x-should-retry") for cls in ALL_ERRORS}
    assert hints.pop("InProgressError") == "true"
    conflicts = {"ConflictError", "IllegalTransitionError", "IdempotencyMismatchError", "QuotaExceededError"}
    assert {name for name, hint in hints.items() if hint == "false"} == conflicts
    assert int(client.get("/v1/raise/InProgressError").headers["retry-after-ms"]) <= 1000


def test_a_bug_is_a_500_without_its_detail(client: TestClient) -> None:
    response = client.get("/v1/bug", headers={"x-request-id": "asked-for-this-id"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "asked-for-this-id"
    assert "asked-for-this-id" in str(_error(response)["message"])


def test_unknown_addresses_and_methods_have_the_envelope(client: TestClient) -> None:
    unknown, method = client.get("/v1/nothing"), client.put("/v1/jobs")
    assert (unknown.status_code, _error(unknown)["code"]) == (404, "unknown_url")
    assert (method.status_code, _error(method)["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"


@pytest.mark.parametrize("given", ["short", "with space in it", "x" * 200, "new\tline-12345"])
def test_a_request_id_that_is_not_sane_is_replaced(client: TestClient, given: str) -> None:
    response = client.get("/v1/nothing", headers={"x-request-id": given})
    assert response.headers["x-request-id"].startswith("req_")
    assert int(response.headers["openai-processing-ms"]) >= 0


GOOD = {"model": "m", "training_file": "file-1"}


@pytest.mark.parametrize(
    ("body", "code", "param", "says"),
    [
        ({"model": "m"}, "missing_required_parameter", "training_file", "training_file is required"),
        (GOOD | {"quux": 1}, "unknown_parameter", "quux", "known here: hyperparameters, integrations"),
        (GOOD | {"learning_rate": 1}, "unknown_parameter", "learning_rate", "did you mean 'training.learning_rate'"),
        (GOOD | {"sufix": "x"}, "unknown_parameter", "sufix", "did you mean 'suffix'"),
        (GOOD | {"lora": {"rank": 1, "aplha": 2}}, "unknown_parameter", "lora.rank", "did you mean 'lora.alpha'"),
        (GOOD | {"seed": -1}, "invalid_value", "seed", "greater than or equal to 0, got -1"),
        (GOOD | {"lora": 5}, "invalid_type", "lora", "got 5"),
        (
            GOOD | {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 51}}}},
            "invalid_value",
            "method.supervised.hyperparameters.n_epochs",
            "should be 'auto' or less than or equal to 50, got 51",
        ),
        (GOOD | {"hyperparameters": {"n_epochs": 0}}, "invalid_value", "hyperparameters.n_epochs", "'auto' or"),
        (GOOD | {"lora": {"target_modules": ["q", 3]}}, "invalid_type", "lora.target_modules[1]", "string"),
        (GOOD | {"method": {"type": "dpo"}}, "unsupported_method", "method", "'dpo' is not supported"),
        (GOOD | {"method": {"type": "reinforcement"}}, "unsupported_method", "method", "supervised"),
        (GOOD | {"method": {"type": "sft"}}, "invalid_value", "method.type", "'supervised', got 'sft'"),
        (GOOD | {"integrations": [{"type": "wandb"}]}, "unsupported_integration", "integrations", "not supported"),
        (GOOD | {"metadata": {"k" * 65: "v"}}, "invalid_value", "metadata", "longer than 64"),
        (GOOD | {"metadata": {str(n): "v" for n in range(17)}}, "invalid_value", "metadata", "at most 16"),
        (GOOD | {"suffix": ""}, "invalid_value", "suffix", "at least 1"),
        (GOOD | {"max_cost_usd": "0.0000001"}, "invalid_value", "max_cost_usd", "decimal places"),
        (GOOD | {"model": "a\ud800b"}, "invalid_value", "model", "unicode"),
        ([], "invalid_type", None, "the request body should be"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    client: TestClient, body: object, code: str, param: str | None, says: str
) -> None:
    response = client.post("/v1/jobs", content=json.dumps(body), headers={"content-type": "application/json"})
    error = _error(response)
    assert response.status_code == 400
    assert (error["code"], error["param"]) == (code, param)
    assert says in str(error["message"])


def test_all_wrong_fields_are_named_at_once(client: TestClient) -> None:
    message = _error(client.post("/v1/jobs", json={"modle": "m", "seed": "x", "lora": {"r": 0}}))["message"]
    assert all(name in str(message) for name in ("modle", "seed", "lora.r", "training_file", "model is required"))


@pytest.mark.parametrize(
    "fields",
    [
        {"validation_file": None, "suffix": None, "seed": None, "integrations": None, "metadata": None},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": None}, "dpo": None}},
        {"method": None, "lora": None, "hyperparameters": None, "integrations": []},
        {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
        {"lora": {"lora_alpha": 32, "lora_dropout": 0.1, "init_lora_weights": "pissa"}, "max_cost_usd": 0.1},
    ],
)
def test_null_means_not_given(client: TestClient, fields: dict[str, object]) -> None:
    assert client.post("/v1/jobs", json=GOOD | fields).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"model": NaN}', "application/json", 400, "invalid_json"),
        (b"\xff\xfe", "application/json", 400, "invalid_json"),
        (b'{"model": "a\\u0000b", "training_file": "f"}', "application/json", 400, "invalid_json"),
        (b"{}", "text/plain", 400, "unsupported_content_type"),
        (b"", "application/json", 400, "missing_required_parameter"),
        (b"[" * 1000 + b"]" * 1000, "application/json", 413, "too_deep"),
        (b'{"metadata":' * 300 + b"1" + b"}" * 300, "application/json", 413, "too_deep"),
        (b'{"model": "' + b"m" * 5000 + b'"}', "application/json", 413, "too_large"),
    ],
)
def test_a_body_that_is_not_acceptable_json_is_refused(
    client: TestClient, content: bytes, kind: str, status: int, code: str
) -> None:
    response = client.post("/v1/jobs", content=content, headers={"content-type": kind})
    assert (response.status_code, _error(response)["code"]) == (status, code)


def test_a_body_that_hides_its_size_is_cut_off_at_the_limit(client: TestClient) -> None:
    endless = (b" " * 1000 for _ in range(100))
    response = client.post("/v1/jobs", content=endless, headers={"content-type": "application/json"})
    assert (response.status_code, _error(response)["code"]) == (413, "too_large")


def test_a_wrong_query_parameter_is_named(client: TestClient) -> None:
    error = _error(client.get("/v1/limited", params={"limit": "many"}))
    assert (error["code"], error["param"]) == ("invalid_type", "limit")
    assert _error(client.get("/v1/limited"))["message"] == "limit is required"
