"""Arrays of jobs: one job's fields, and the values that some of them take, in every combination."""

import copy
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.spec import JobSpec

MAX_JOBS = 256
"""Of one array: they are accepted in one transaction, which keeps other writers waiting on SQLite."""
FIXED = frozenset({"team"})
"""An array belongs to one team."""


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """Jobs that were submitted together; at most `max_parallel` of them run at once, None for no such limit."""

    array_id: str
    team_id: str
    created_by: str
    name: str
    max_parallel: int | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One combination. `picks` has the index of the value that each varied field took; `number` counts from 1."""

    number: int
    total: int
    fields: dict[str, Any]
    picks: Mapping[str, int]

    def locate(self, error: InvalidRequestError) -> InvalidRequestError:
        """The same error, about this combination: `param` is the value at fault, or the field of the job."""
        said = ", ".join(f"{path} = {json.dumps(read_field(self.fields, path))}" for path in self.picks)
        message = f"job {self.number} of {self.total} ({said}): {error.message}"
        return type(error)(message, code=error.code, param=self._locate(error.param))

    def _locate(self, param: str | None) -> str:
        if param is None:
            return "vary"
        path = next((path for path in self.picks if _is_about(param, path)), None)
        return f"job.{param}" if path is None else f"vary.{path}[{self.picks[path]}]"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A combination that is a job's spec."""

    variation: Variation
    spec: JobSpec


def expand(job: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]) -> list[Variation]:
    """The cross product; the last field changes fastest. Raises InvalidRequestError, naming the field or the value."""
    _require_sound(vary)
    total = math.prod(len(values) for values in vary.values())
    if total > MAX_JOBS:
        raise InvalidRequestError(f"that is {total} jobs; an array has at most {MAX_JOBS}", param="vary")
    combinations = itertools.product(*(range(len(values)) for values in vary.values()))
    return [
        _vary(job, vary, dict(zip(vary, picks, strict=True)), number=number, total=total)
        for number, picks in enumerate(combinations, start=1)
    ]


def _require_sound(vary: Mapping[str, Sequence[Any]]) -> None:
    for path, values in vary.items():
        if path in FIXED or not all(path.split(".")):
            raise InvalidRequestError(f"{path!r} is not a field that can vary", param=f"vary.{path}")
        outer = next((other for other in vary if path.startswith(other + ".")), None)
        if outer is not None:
            raise InvalidRequestError(f"{path} is a part of {outer}, which varies too", param=f"vary.{path}")
        if not values:
            raise InvalidRequestError(f"{path} has no values", param=f"vary.{path}")
        texts = [json.dumps(value, sort_keys=True) for value in values]
        again = next((index for index, text in enumerate(texts) if text in texts[:index]), None)
        if again is not None:
            raise InvalidRequestError(f"{path} has {texts[again]} twice", param=f"vary.{path}[{again}]")


def _vary(
    job: Mapping[str, Any], vary: Mapping[str, Sequence[Any]], picks: dict[str, int], *, number: int, total: int
) -> Variation:
    fields = copy.deepcopy(dict(job))
    for path, index in picks.items():
        *parents, name = path.split(".")
        place = fields
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InvalidRequestError(f"{path}: {parent} has no fields", param=f"vary.{path}")
            place = inner
        place[name] = vary[path][index]
    return Variation(number=number, total=total, fields=fields, picks=picks)


def _is_about(param: str, path: str) -> bool:
    """Whether a field is the varied one, or within it, or around it."""
    return param == path or param.startswith((path + ".", path + "[")) or path.startswith(param + ".")


def read_field(fields: Mapping[str, Any], path: str) -> Any:
    """The value at a path with dots; None where there is nothing."""
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def find_differences(specs: Sequence[JobSpec]) -> list[dict[str, Any]]:
    """Of each spec, the fields, by their path with dots, in which not all of them agree."""
    flat = [dict(_flatten(spec.model_dump(mode="json"))) for spec in specs]
    paths = dict.fromkeys(path for fields in flat for path in fields)
    differing = [path for path in paths if any(fields.get(path) != flat[0].get(path) for fields in flat)]
    return [{path: fields.get(path) for path in differing} for fields in flat]


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
