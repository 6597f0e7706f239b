"""The REST API's reference, from the OpenAPI document."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from api.reference.tables import WRITTEN, page, table

Document = Mapping[str, Any]
METHODS = ("get", "post", "put", "patch", "delete")
HIDDEN_ANSWERS = frozenset({"401", "429", "500", "503"})
"""What every route can answer; said once."""
NESTED = re.compile(r"\A(ListPage_)(\w+?)_\Z")


def render_rest(document: Document) -> str:
    return page([*_head(document), *_operations(document), *_schemas(document)])


def _head(document: Document) -> list[str]:
    return [
        "# REST API reference",
        "",
        WRITTEN,
        "",
        document["info"]["description"],
        "",
        "Requests carry `Authorization: Bearer KEY`. The document that this page is made of is at "
        "[/openapi.json](../../api/openapi.json), which needs no key. "
        "Every route can also answer 401 (no key, or a bad one), 429 (too many requests), 500 (a fault of the service) "
        "and 503 (a part does not answer). [Troubleshooting](../troubleshooting.md) explains every error code.",
        "",
    ]


def _operations(document: Document) -> Iterator[str]:
    for tag in _tags(document):
        yield from (f"## {tag}", "")
        for path, operations in document["paths"].items():
            for method in METHODS:
                operation = operations.get(method)
                if operation is not None and operation.get("tags", ["Other"])[0] == tag:
                    yield from _operation(path, method, operation)


def _tags(document: Document) -> list[str]:
    """In the document's order, and then those that it does not describe."""
    used = [
        operation.get("tags", ["Other"])[0]
        for operations in document["paths"].values()
        for method, operation in operations.items()
        if method in METHODS
    ]
    described = [tag["name"] for tag in document.get("tags", ()) if tag["name"] in used]
    return list(dict.fromkeys([*described, *used]))


def _operation(path: str, method: str, operation: Document) -> Iterator[str]:
    yield from (f"### {operation.get('summary', path)}", "", f"`{method.upper()} {path}`", "")
    if operation.get("description"):
        yield from (operation["description"], "")
    parameters = [
        (f"`{p['name']}`", p["in"], type_of(p.get("schema", {})), p.get("description", ""))
        for p in operation.get("parameters", ())
    ]
    yield from table(("Parameter", "In", "Type", "Meaning"), parameters)
    body = operation.get("requestBody")
    if body is not None:
        kind, content = next(iter(body["content"].items()))
        yield from (f"Body: {_shape(content, kind)}.", "")
    yield from (_answers(operation["responses"]), "")


def _answers(responses: Document) -> str:
    """One sentence: what comes back, and the errors that are this route's own."""
    told, errors = [], []
    for status, answer in responses.items():
        if status.startswith("2"):
            shapes = [_shape(content, kind) for kind, content in answer.get("content", {}).items()]
            told.append(f"{status} with {' or '.join(shapes)}" if shapes else f"{status} without a body")
        elif status not in HIDDEN_ANSWERS:
            errors.append(status)
    return f"Answers {', '.join(told)}" + (f"; errors {', '.join(errors)}." if errors else ".")


def _shape(content: Document, kind: str) -> str:
    schema = content.get("schema", {})
    if kind == "application/json":
        return type_of(schema)
    if kind == "multipart/form-data":
        return f"a form ({', '.join(f'`{name}`' for name in schema.get('properties', {}))})"
    return f"`{kind}`"


def _schemas(document: Document) -> Iterator[str]:
    yield from ("## Objects", "", "Fields in **bold** are needed in a request.", "")
    for name, schema in sorted(document["components"]["schemas"].items()):
        if NESTED.match(name):
            continue
        yield from (f"### {name}", "")
        if schema.get("description"):
            yield from (schema["description"], "")
        if "enum" in schema:
            yield from ("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".", "")
        needed = set(schema.get("required", ()))
        rows = [
            (
                f"**`{field}`**" if field in needed else f"`{field}`",
                type_of(part),
                default_of(part),
                part.get("description", ""),
            )
            for field, part in schema.get("properties", {}).items()
        ]
        yield from table(("Field", "Type", "Default", "Meaning"), rows)


def type_of(schema: Document) -> str:
    """A schema in a few words, with links to named objects."""
    if "$ref" in schema:
        return _link(schema["$ref"].rsplit("/", 1)[-1])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(part) for part in schema[key]))
    if "allOf" in schema:
        return type_of(schema["allOf"][0])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return str(kind) + _limits(schema)


def _link(name: str) -> str:
    nested = NESTED.match(name)
    if nested:
        return f"page of {_link(nested.group(2))}"
    return f"[{name}](#{name.lower()})"


def _limits(schema: Document) -> str:
    low = schema.get("minimum", schema.get("minLength"))
    high = schema.get("maximum", schema.get("maxLength"))
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    told = [
        text
        for value, text in (
            (low, f"from {low}"),
            (above, f"above {above}"),
            (high, f"to {high}"),
            (below, f"below {below}"),
        )
        if value is not None
    ]
    unit = " characters" if "minLength" in schema or "maxLength" in schema else ""
    return f" {' '.join(told)}{unit}" if told else ""


def default_of(schema: Document) -> str:
    """Simple defaults; an object's are in its own table."""
    value = schema.get("default")
    if value is None or isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
