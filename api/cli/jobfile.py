"""A job file: the fields of a job as YAML, checked here so that an error names the file, the line and the field.

Paths of data sets are relative to the file that names them; they are uploaded, and their ids put in their place.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from api.cli.exits import CommandError
from orchestrator.domain.spec import JobSpec

FILE_FIELDS = ("training_file", "validation_file")
OTHER_FIELDS = frozenset({"team"})
"""Fields of the request that are not part of a job's spec."""
MAX_DEPTH, MAX_FIELDS = 20, 10_000
"""No file of settings has more; one that refers to itself has no end."""
_PLACEHOLDER = "file-of-this-machine"
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, with numbers such as 2e-4 read as numbers, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class JobFile:
    """`lines` maps the place of each field to its line, counted from 1."""

    path: Path
    fields: dict[str, Any]
    lines: Mapping[Location, int]

    def error(self, location: Location, message: str) -> CommandError:
        """An error about a field, with the line of the field or of the nearest one around it."""
        known = location
        while known and known not in self.lines:
            known = known[:-1]
        field = ".".join(str(part) for part in location)
        return CommandError(f"{self.path}:{self.lines.get(known, 1)}: {field + ': ' if field else ''}{message}")

    def error_of_param(self, param: str, message: str) -> CommandError:
        """An error that the server has about a field, which it names by its path with dots."""
        return self.error(tuple(param.split(".")), message)


def read_jobfile(path: Path) -> JobFile:
    """Read and check a job file. Raises CommandError naming file, line and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CommandError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    node, fields, lines = read_yaml(path, text)
    if node is None or not isinstance(fields, dict):
        raise CommandError(f"{path}:1: a job file holds fields, such as `model: smollm2-135m-instruct`")
    job = JobFile(path, fields, lines)
    _check(job)
    return job


def read_yaml(path: Path, text: str) -> tuple[yaml.Node | None, Any, dict[Location, int]]:
    """The document, what it says, and the line of every field; JSON is YAML, too. Raises CommandError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        fields = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise _yaml_error(path, error) from error
    finally:
        loader.dispose()
    return node, fields, {} if node is None else _read_lines(path, node)


def read_values(text: str, where: str) -> list[Any]:
    """Values with commas between them, as in a job file: `8,16`, `1e-4,2e-4`, `[q_proj],[q_proj,v_proj]`.

    Raises CommandError that begins with `where`.
    """
    loader = _Loader(f"[{text}]")
    try:
        values = loader.get_single_data()
        json.dumps(values)  # YAML has dates, a job has none
    except (yaml.YAMLError, TypeError):
        raise CommandError(f"{where}: these are not values with commas between them") from None
    finally:
        loader.dispose()
    assert isinstance(values, list)
    return values


def upload_files(job: JobFile, upload: Callable[[Path], str]) -> dict[str, Any]:
    """The job's fields with ids for files; `upload` is called once for each file of this machine."""
    fields = dict(job.fields)
    for name, path in local_files(job).items():
        fields[name] = upload(path)
    return fields


def local_files(job: JobFile) -> dict[str, Path]:
    """The fields that name a file of this machine. Raises CommandError when one is not there."""
    found = {}
    for name in FILE_FIELDS:
        value = job.fields.get(name)
        if not isinstance(value, str) or value.startswith("file-"):
            continue
        path = (job.path.parent / value).resolve()
        if not path.is_file():
            raise job.error((name,), f"there is no file {path}; give a path, or the id of an uploaded file")
        found[name] = path
    return found


def _check(job: JobFile) -> None:
    """Check the fields as the server will, apart from what only the server knows."""
    fields = {name: value for name, value in job.fields.items() if name not in OTHER_FIELDS}
    for name in FILE_FIELDS:
        if isinstance(fields.get(name), str):
            fields[name] = _PLACEHOLDER
    if "hyperparameters" in fields and "method" not in fields:
        fields["method"] = {"supervised": {"hyperparameters": fields.pop("hyperparameters")}}
    try:
        JobSpec.model_validate(fields)
    except ValidationError as invalid:
        problems = invalid.errors(include_url=False)
        location = _written(job, problems[0]["loc"])
        same = [problem for problem in problems if _written(job, problem["loc"]) == location]
        raise job.error(location, say_problems(same, location)) from invalid


def _written(job: JobFile, location: Location) -> Location:
    """The part of a location that is written in the file: Pydantic adds the types of a union that it tried.

    A field that is needed and missing is kept.
    """
    kept: Location = ()
    for part in location:
        if (*kept, part) in job.lines:
            kept = (*kept, part)
    return kept or location[:1]


def say_problems(problems: list[Any], location: Location) -> str:
    """One sentence about the problems of one field; a field of several types has one for each."""
    first = problems[0]
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), _known_names(), n=1)
        return f"there is no such field{f'; did you mean {close[0]}?' if close else ''}"
    if first["type"] == "missing":
        return "this field is needed"
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    wishes = dict.fromkeys(str(problem["msg"]).replace("Input should be ", "", 1) for problem in problems)
    text = " or ".join(wishes)
    should_be = "should be " if str(first["msg"]).startswith("Input") else ""
    return f"{should_be}{text[0].lower()}{text[1:]}, but is {first['input']!r}"


def _known_names() -> list[str]:
    """Every field name of a job, at any depth."""
    schema = JobSpec.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return [name for part in parts for name in part.get("properties", {})]


def _read_lines(path: Path, node: yaml.Node) -> dict[Location, int]:
    """The line of every field. Raises CommandError for a field that is given twice, which YAML would let pass."""
    found: dict[Location, int] = {}
    waiting: list[tuple[Location, yaml.Node]] = [((), node)]
    while waiting:
        location, current = waiting.pop()
        if len(location) > MAX_DEPTH or len(found) > MAX_FIELDS:
            line = current.start_mark.line + 1
            raise CommandError(f"{path}:{line}: nested too deeply, or an alias of YAML that contains itself")
        if isinstance(current, yaml.MappingNode):
            for key, value in current.value:
                place = (*location, key.value)
                line = key.start_mark.line + 1
                if place in found:
                    raise JobFile(path, {}, {place: line}).error(place, f"given before, in line {found[place]}")
                found[place] = line
                waiting.append((place, value))
        elif isinstance(current, yaml.SequenceNode):
            for index, value in enumerate(current.value):
                found[(*location, index)] = value.start_mark.line + 1
                waiting.append(((*location, index), value))
    return found


def _yaml_error(path: Path, error: yaml.YAMLError) -> CommandError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return CommandError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {problem}")
