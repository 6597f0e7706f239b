"""What is wrong with a request, said in one error: which field, why, what is allowed.

Pydantic reports one problem per branch of a union and puts the branch into the location; here the branches of a field
are joined again, and the location becomes the dotted path that the caller wrote.
"""

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError

from orchestrator.domain.errors import InvalidRequestError

Path = tuple[str | int, ...]
_SOURCES = frozenset({"body", "query", "path", "header", "cookie"})
_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
    "unsupported_method": "unsupported_method",
    "unsupported_integration": "unsupported_integration",
    "string_unicode": "invalid_value",
}
_SHOULD_BE = "Input should be "
MAX_SHOWN_PROBLEMS = 5
MAX_SHOWN_INPUT = 60


def explain_problems(
    problems: Sequence[Mapping[str, Any]], *, body: Any, model: type[Any] | None
) -> InvalidRequestError:
    """One error for all problems: `param` and `code` are the first one's, the message names up to five fields."""
    groups: dict[Path, list[Mapping[str, Any]]] = {}
    for problem in problems:
        groups.setdefault(_path_of(problem, body), []).append(problem)
    shown = [path for path in groups if not any(_is_inside(other, path) for other in groups)]
    texts = [_describe(path, groups[path], model) for path in shown[:MAX_SHOWN_PROBLEMS]]
    if len(shown) > MAX_SHOWN_PROBLEMS:
        texts.append(f"and {len(shown) - MAX_SHOWN_PROBLEMS} more")
    first = shown[0]
    return InvalidRequestError("; ".join(texts), code=_code_of(groups[first]), param=dotted(first) or None)


def explain_model(error: ValidationError, *, body: Any, model: type[BaseModel]) -> InvalidRequestError:
    """As `explain_problems`, for a body that was checked by its model and not by a route."""
    problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
    return explain_problems(problems, body=body, model=model)


def dotted(path: Path) -> str:
    """("a", "b", 0, "c") is a.b[0].c."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _is_inside(path: Path, outer: Path) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _path_of(problem: Mapping[str, Any], body: Any) -> Path:
    """The location without its source and without the names of union branches."""
    location = tuple(problem["loc"])
    source, rest = (location[0], location[1:]) if location and location[0] in _SOURCES else ("", location)
    if source != "body" or problem["type"] == "json_invalid":
        return tuple(part for part in rest[:1] if isinstance(part, str))
    path: list[str | int] = []
    value = body
    for position, part in enumerate(rest):
        last = position == len(rest) - 1
        if isinstance(value, Mapping) and (part in value or (last and problem["type"] == "missing")):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _code_of(problems: Sequence[Mapping[str, Any]]) -> str:
    kinds = [str(problem["type"]) for problem in problems]
    if kinds[0] in _CODES:
        return _CODES[kinds[0]]
    wrong_type = all(kind.endswith(("_type", "_parsing")) or kind == "literal_error" for kind in kinds)
    only_literal = all(kind == "literal_error" for kind in kinds)
    return "invalid_type" if wrong_type and not only_literal else "invalid_value"


def _describe(path: Path, problems: Sequence[Mapping[str, Any]], model: type[Any] | None) -> str:
    name = dotted(path)
    first = problems[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        return _describe_unknown(path, model)
    if kind == "missing":
        return f"{name or 'the request body'} is required"
    if kind == "json_invalid":
        return f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    messages = [str(problem["msg"]).removeprefix("Value error, ") for problem in problems]
    if all(message.startswith(_SHOULD_BE) for message in messages):
        wishes = dict.fromkeys(message.removeprefix(_SHOULD_BE) for message in messages)
        return f"{name or 'the request body'} should be {' or '.join(wishes)}, got {_shorten(first['input'])}"
    text = "; ".join(dict.fromkeys(messages))
    return f"{name}: {text}" if name else text


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_INPUT else text[:MAX_SHOWN_INPUT] + "…"


def _describe_unknown(path: Path, model: type[Any] | None) -> str:
    """Name the field, and the known one that it resembles, or all that are known there."""
    name = str(path[-1])
    known = known_fields(model, path[:-1])
    inner: list[tuple[str, ...]] = [
        (field, name) for field in known if name in known_fields(model, (*path[:-1], field))
    ]
    near = inner or [(field,) for field in difflib.get_close_matches(name, known, n=1, cutoff=0.6)]
    if near:
        return f"unknown field {dotted(path)!r}; did you mean {dotted((*path[:-1], *near[0]))!r}?"
    return f"unknown field {dotted(path)!r}" + (f"; known here: {', '.join(known)}" if known else "")


def known_fields(model: type[Any] | None, path: Path) -> list[str]:
    """The names that the object at `path` of `model` may have; empty when that is not one of our models."""
    for part in path:
        if model is None or isinstance(part, int):
            return []
        field = next((field for name, field in model.model_fields.items() if part in _names(name, field)), None)
        model = _model_within(field.annotation) if field is not None else None
    if model is None or not isinstance(model, type) or not issubclass(model, BaseModel):
        return []
    return sorted({known for name, field in model.model_fields.items() for known in _names(name, field)})


def _names(name: str, field: Any) -> set[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias] if isinstance(alias, str) else []
    return {name, *(choice for choice in choices if isinstance(choice, str))}


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model inside Optional, Union and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((found for part in get_args(annotation) if (found := _model_within(part))), None)
    return None
