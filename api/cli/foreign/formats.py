"""Which tool a file is for, and the file as a job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from api.cli.exits import CommandError
from api.cli.foreign import axolotl, llamafactory, trl
from api.cli.foreign.data import Target
from api.cli.foreign.given import ForeignFile
from api.cli.foreign.rules import Place, Translation
from api.cli.jobfile import say_problems
from orchestrator.domain.spec import JobSpec


class Tool(StrEnum):
    AXOLOTL = "axolotl"
    LLAMA_FACTORY = "llamafactory"
    TRL = "trl"


@dataclass(frozen=True)
class Format:
    """`marks` are fields that tell the format, `translate` makes a job of it."""

    name: str
    marks: frozenset[str]
    translate: Callable[[Translation, Target], None]


FORMATS = {
    Tool.AXOLOTL: Format("Axolotl", axolotl.MARKS, axolotl.translate),
    Tool.LLAMA_FACTORY: Format("LLaMA-Factory", llamafactory.MARKS, llamafactory.translate),
    Tool.TRL: Format("TRL and PEFT", trl.MARKS, trl.translate),
}
OWN_FIELDS = frozenset({"training_file", "hyperparameters", "quantization", "max_cost_usd"})


def detect_tool(source: ForeignFile) -> Tool:
    """The format whose marks the file has most of. Raises CommandError when two have as many, or none has any."""
    if OWN_FIELDS & source.fields.keys():
        raise CommandError(f"{source.path} is a job file of Tunepool already", hint=f"tunepool submit {source.path}")
    plain = trl.flatten_sections(source)
    counts = {
        tool: len(kind.marks & (plain if tool is Tool.TRL else source).fields.keys()) for tool, kind in FORMATS.items()
    }
    best = max(counts.values())
    found = [tool for tool, count in counts.items() if count == best]
    if best == 0 or len(found) > 1:
        fields = ", ".join(list(source.fields)[:6]) or "none"
        what = "looks like none of them" if best == 0 else f"could be for {' or '.join(found)}"
        raise CommandError(
            f"{source.path}:1: this {what}; its fields are {fields}",
            hint=f"--from {'|'.join(FORMATS)} says what it is",
        )
    return found[0]


def translate(source: ForeignFile, tool: Tool, target: Target) -> Translation:
    """The file as a job that the server would take. Raises CommandError naming the file's own line and field."""
    out = Translation(trl.flatten_sections(source) if tool is Tool.TRL else source)
    FORMATS[tool].translate(out, target)
    if not out.has("model"):
        raise CommandError(f"{source.path}:1: no base model is named in it")
    _check(out)
    return out


def _check(out: Translation) -> None:
    fields: dict[str, Any] = {}
    for place, field in out.fields.items():
        inside = fields
        for part in place[:-1]:
            inside = inside.setdefault(part, {})
        inside[place[-1]] = field.value
    hyperparameters = fields.pop("hyperparameters", {})
    try:
        JobSpec.model_validate({**fields, "method": {"supervised": {"hyperparameters": hyperparameters}}})
    except ValidationError as invalid:
        raise _error(out, invalid.errors(include_url=False)) from invalid


def _error(out: Translation, problems: Sequence[Any]) -> CommandError:
    """With the field of the foreign file that the refused one came from."""
    place = _place_of(out, problems[0])
    text = say_problems([problem for problem in problems if _place_of(out, problem) == place], place)
    given = out.origins.get(place)
    if given is None:
        return CommandError(f"{out.source.path}:1: {'.'.join(place)}: {text}")
    return out.source.error(given.name, f"{text} ({'.'.join(place)})")


def _place_of(out: Translation, problem: Any) -> Place:
    """Pydantic adds the types of a union that it tried, and the method's own path."""
    parts = tuple(str(part) for part in problem["loc"] if part not in {"method", "supervised"})
    return next((known for known in out.fields if parts[: len(known)] == known), parts[:2])
