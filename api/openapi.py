"""The OpenAPI document: what FastAPI derives, with this API's own errors, security and examples.

It is stored in api/openapi.json and compared by a test, so that every change of the wire shows in review.
"""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.auth import PUBLIC_PATHS
from api.schemas.errors import ErrorEnvelope

DESCRIPTIONS = {
    400: "A field, a file or a combination is wrong; `param` names it.",
    401: "No API key was given, or it is not valid.",
    403: "The key's role does not allow it.",
    404: "It is not there, or another team's.",
    409: "The state does not allow it. Carries `x-should-retry`.",
    413: "Over a size limit.",
    429: "A limit of the team is used up.",
    500: "A fault of this service; the log has it under the request id.",
    503: "A part of the system does not answer; try again.",
}
STREAM_DESCRIPTION = (
    "Server-sent events. `id` is the row's id, `event` its kind (event, log or metric), `data` the object that a page "
    "has; a comment pings while nothing happens. When the job is final and all rows are sent, an event `done` with the "
    "job's id and status ends the stream. A stream that ends without it is to be opened again with Last-Event-ID."
)
EVERYWHERE = (401, 500, 503)
FORBIDDEN_WHERE = frozenset({"post", "put", "delete"})


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route can answer beside its success; those that every route can are added to all."""
    return {status: {"model": ErrorEnvelope, "description": DESCRIPTIONS[status]} for status in sorted(statuses)}


def binary(description: str, media_type: str = "application/octet-stream") -> dict[int | str, dict[str, Any]]:
    """A success that is bytes and not JSON."""
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": description, "content": {media_type: {"schema": schema}}}}


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
        separate_input_output_schemas=False,
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, public=path in PUBLIC_PATHS)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


def _complete(operation: dict[str, Any], method: str, *, public: bool) -> None:
    """FastAPI announces 422 for whatever has a parameter; here that is a 400 in the envelope."""
    responses = operation["responses"]
    if responses.pop("422", None):
        responses.setdefault("400", _envelope_response(400))
    if public:
        return
    for status in (*EVERYWHERE, *((403,) if method in FORBIDDEN_WHERE else ())):
        responses.setdefault(str(status), _envelope_response(status))
    operation["responses"] = dict(sorted(responses.items()))


def _envelope_response(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorEnvelope"}
    return {"description": DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}


def print_document(app: FastAPI) -> str:
    """The document as it is stored: stable order, one final newline."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"
