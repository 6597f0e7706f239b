"""The OpenAPI document: what FastAPI derives, with this API's own errors, security and examples.

It is stored in api/openapi.json and compared by a test, so that every change of the wire shows in review.
"""

import json
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.auth import PUBLIC_PATHS
from api.errors import error_type
from api.schemas.errors import ErrorEnvelope

DESCRIPTIONS = {
    400: "A field, a file or a combination is wrong; `param` names it.",
    401: "No API key was given, or it is not valid.",
    403: "The key's role does not allow it.",
    404: "It is not there, or another team's.",
    409: "The state does not allow it. Carries `x-should-retry`.",
    413: "Over a size limit.",
    429: "Too many requests of this key (`retry-after` says when to repeat), or a limit of the team is used up.",
    500: "A fault of this service; the log has it under the request id.",
    503: "A part of the system does not answer; try again.",
}
STREAM_DESCRIPTION = (
    "Server-sent events. `id` is the row's id, `event` its kind (event, log or metric), `data` the object that a page "
    "has; a comment pings while nothing happens. When the job is final and all rows are sent, an event `done` with the "
    "job's id and status ends the stream. A stream that ends without it is to be opened again with Last-Event-ID."
)
NAMES = {
    400: "BadRequest",
    401: "Unauthenticated",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    413: "TooLarge",
    429: "LimitReached",
    500: "InternalError",
    503: "Unavailable",
}
EXAMPLES = {
    400: ("seed should be greater than or equal to 0, got -1", "invalid_value", "seed"),
    401: ("this API key is not known", "invalid_api_key", None),
    403: ("this key is a viewer's, which reads; a member's or an admin's is needed", "permission_denied", None),
    404: ("No such job: ftjob-0199a7c4", "not_found", None),
    409: ("The job has succeeded already; it cannot be cancelled.", "invalid_state", None),
    413: ("the body is over 1048576 bytes, the most that is accepted here", "too_large", None),
    429: ("this key may send 6000 requests a minute; wait a moment", "rate_limit_exceeded", None),
    500: ("Something went wrong inside Tunepool; …", "internal_error", None),
    503: ("The database does not answer. Try again later.", "store_unavailable", None),
}
EVERYWHERE = (401, 429, 500, 503)
FORBIDDEN_WHERE = frozenset({"post", "put", "delete"})


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route can answer beside its success; those that every route can are added to all."""
    return {status: {"description": DESCRIPTIONS[status]} for status in sorted(statuses)}


def binary(description: str, media_type: str = "application/octet-stream") -> dict[int | str, dict[str, Any]]:
    """A success that is bytes and not JSON."""
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": description, "content": {media_type: {"schema": schema}}}}


def json_or_csv(answer: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A success that is JSON, or a table when one was asked for."""
    table = {"schema": {"type": "string", "description": "A table with a header."}}
    return {200: {"model": answer, "description": "JSON, or a table.", "content": {"text/csv": table}}}


def page_or_stream(page: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A success that is a page of JSON, or a stream when one was asked for."""
    stream = {"schema": {"type": "string", "description": STREAM_DESCRIPTION}}
    return {200: {"model": page, "description": "A page, or a stream.", "content": {"text/event-stream": stream}}}


def multipart(form: type[BaseModel]) -> dict[str, Any]:
    """The body of a route that reads its form itself."""
    content = {"multipart/form-data": {"schema": form.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def cached_document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = build_document(app)
    return app.openapi_schema


def build_document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        license_info=app.license_info,
        separate_input_output_schemas=False,
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, public=path in PUBLIC_PATHS)
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["schemas"] |= _error_schemas()
    components["responses"] = {NAMES[status]: _error_response(status) for status in sorted(DESCRIPTIONS)}
    return cast(dict[str, Any], _without_titles(document))


def _complete(operation: dict[str, Any], method: str, *, public: bool) -> None:
    """FastAPI announces 422 for whatever has a parameter; here that is a 400 in the envelope."""
    responses = operation["responses"]
    if public:
        return
    if responses.pop("422", None):
        responses.setdefault("400", {})
    for status in (*EVERYWHERE, *((403,) if method in FORBIDDEN_WHERE else ())):
        responses.setdefault(str(status), {})
    for status in responses:
        if int(status) in DESCRIPTIONS:
            responses[status] = {"$ref": f"#/components/responses/{NAMES[int(status)]}"}
    operation["responses"] = dict(sorted(responses.items()))


def _error_response(status: int) -> dict[str, Any]:
    message, code, param = EXAMPLES[status]
    example = {"error": {"message": message, "type": error_type(status), "code": code, "param": param}}
    schema = {"$ref": "#/components/schemas/ErrorEnvelope"}
    return {
        "description": DESCRIPTIONS[status],
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _error_schemas() -> dict[str, Any]:
    schema = ErrorEnvelope.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "ErrorEnvelope": schema}


def _without_titles(part: Any) -> Any:
    """Pydantic repeats the name of each field as its title."""
    if isinstance(part, dict):
        named = part.get("properties")
        return {
            name: {key: _without_titles(value) for key, value in named.items()}
            if part.get("properties") is item and isinstance(named, dict)
            else _without_titles(item)
            for name, item in part.items()
            if not (name == "title" and isinstance(item, str) and "openapi" not in part and "version" not in part)
        }
    return [_without_titles(item) for item in part] if isinstance(part, list) else part


def print_document(app: FastAPI) -> str:
    """The document as it is stored: stable order, one final newline."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"
