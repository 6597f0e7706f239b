"""The OpenAPI document: stored, complete, and honest about errors and keys."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import describe_app
from api.auth import PUBLIC_PATHS
from api.openapi import DESCRIPTIONS, EXAMPLES, NAMES, print_document

STORED = Path(__file__).resolve().parents[2] / "api" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(print_document(describe_app()))
OPERATIONS = [
    (method, path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]
NAMES_OF_OPERATIONS = [f"{method} {path}" for method, path, _ in OPERATIONS]


def test_the_stored_document_is_the_present_one() -> None:
    assert STORED.read_text() == print_document(describe_app()), "run `make openapi` and look at what changed"


def test_every_error_has_a_name_a_description_and_an_example() -> None:
    assert set(DESCRIPTIONS) == set(EXAMPLES) == set(NAMES)
    assert set(DOCUMENT["components"]["responses"]) == set(NAMES.values())


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=NAMES_OF_OPERATIONS)
def test_an_operation_says_what_it_does_and_how_it_fails(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["tags"]
    assert "422" not in operation["responses"]
    assert operation["responses"]["200"]["content"]
    if path in PUBLIC_PATHS:
        assert "security" not in operation
        return
    assert operation["security"] == [{"ApiKey": []}]
    assert {"401", "500", "503"} <= set(operation["responses"])
    if "{" in path:
        assert "404" in operation["responses"]
    if "requestBody" in operation:
        assert {"400", "413"} <= set(operation["responses"])


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) > 40
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=NAMES_OF_OPERATIONS)
def test_what_a_caller_can_send_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        assert parameter.get("description"), parameter["name"]
    for content in operation.get("requestBody", {"content": {}})["content"].values():
        silent = [name for name, schema in _fields(content["schema"]) if not schema.get("description")]
        assert not silent


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a body, and of the objects in it."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for part in (schema, *schema.get("anyOf", ())):
        for name, field in part.get("properties", {}).items():
            yield name, field
            yield from _fields(field)


def test_bodies_of_json_have_examples() -> None:
    bodies = {
        content["schema"]["$ref"].rpartition("/")[2]
        for _, _, operation in OPERATIONS
        if (content := operation.get("requestBody", {"content": {}})["content"].get("application/json"))
    }
    assert len(bodies) >= 7
    assert [name for name in sorted(bodies) if not DOCUMENT["components"]["schemas"][name].get("examples")] == []
