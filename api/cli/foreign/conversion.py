"""Rows of other tools' formats as rows of messages: Alpaca, ShareGPT, prompt and completion.

Formats as Axolotl's and LLaMA-Factory's documentation of July and August 2026 describe them. A row that says what
messages cannot say is refused, with its line; nothing is guessed and nothing is dropped in silence.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from api.cli.exits import CommandError


class Kind(StrEnum):
    MESSAGES = "messages"
    TURNS = "sharegpt"
    INSTRUCTION = "alpaca"
    COMPLETION = "prompt and completion"


ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
}
TOOL_ROLES = frozenset({"tool", "function", "function_call", "observation", "tool_calls", "tool_response"})
TURN_KEYS = ("conversations", "conversation", "messages")
"""Where ShareGPT's turns may be."""


@dataclass(frozen=True)
class Shape:
    """How the rows of a file are written: the names of their columns, and of the parts of their turns."""

    kind: Kind
    turns: str = "conversations"
    role: str = "from"
    content: str = "value"
    roles: Mapping[str, str] = field(default_factory=lambda: ROLES)
    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    system: str = "system"
    history: str = "history"


class RowError(Exception):
    """A row cannot be written as messages."""


def detect_shape(row: Mapping[str, Any]) -> Shape | None:
    """What a row looks like; None when it is none of these."""
    for key in TURN_KEYS:
        turns = row.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            if {"role", "content"} <= turns[0].keys():
                return Shape(Kind.MESSAGES if key == "messages" else Kind.TURNS, key, "role", "content")
            if {"from", "value"} <= turns[0].keys():
                return Shape(Kind.TURNS, key)
    if "instruction" in row and "output" in row:
        return Shape(Kind.INSTRUCTION)
    if "prompt" in row and "completion" in row:
        if isinstance(row["prompt"], list):
            return Shape(Kind.COMPLETION, instruction="prompt", output="completion")
        return Shape(Kind.INSTRUCTION, instruction="prompt", output="completion")
    return None


def convert_row(row: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Raises RowError."""
    if shape.kind is Kind.INSTRUCTION:
        messages = _of_instruction(row, shape)
    elif shape.kind is Kind.COMPLETION:
        messages = [*_list(row, shape.instruction), *_list(row, shape.output)]
    else:
        messages = _of_turns(row, shape)
    if not messages or messages[-1]["role"] != "assistant":
        raise RowError("it does not end with the model's answer")
    return {"messages": messages}


def _of_turns(row: Mapping[str, Any], shape: Shape) -> list[dict[str, str]]:
    messages = [_turn(turn, shape) for turn in _list(row, shape.turns)]
    system = row.get(shape.system)
    if isinstance(system, str) and system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _turn(turn: Any, shape: Shape) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise RowError("a turn is not an object")
    name, content = turn.get(shape.role), turn.get(shape.content)
    if name in TOOL_ROLES:
        raise RowError(f"the role {name!r} is a tool's: write tool_calls and tool messages as OpenAI has them")
    role = shape.roles.get(str(name))
    if role is None:
        raise RowError(f"the role {name!r} is not known")
    if not isinstance(content, str):
        raise RowError(f"{shape.content!r} is not text")
    return {"role": role, "content": content}


def _of_instruction(row: Mapping[str, Any], shape: Shape) -> list[dict[str, str]]:
    messages = []
    if row.get(shape.system):
        messages.append({"role": "system", "content": _text(row, shape.system)})
    for pair in row.get(shape.history) or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise RowError(f"{shape.history!r} holds something else than pairs of texts")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = _text(row, shape.instruction)
    if row.get(shape.input):
        asked = f"{asked}\n{_text(row, shape.input)}"
    answer = _text(row, shape.output)
    return [*messages, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise RowError(f"{name!r} is not text")
    return value


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise RowError(f"{name!r} is not a list")
    return value


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of JSON Lines, or of a JSON list, where the line counts rows. Raises CommandError."""
    with path.open(encoding="utf-8") as file:
        if path.suffix == ".json":
            yield from enumerate(_read_list(path, file.read()), start=1)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _as_row(path, number, _parse(path, number, line))


def _read_list(path: Path, text: str) -> Iterable[dict[str, Any]]:
    found = _parse(path, 1, text)
    if not isinstance(found, list):
        raise CommandError(f"{path}:1: a list of rows was expected")
    return [_as_row(path, number, row) for number, row in enumerate(found, start=1)]


def _parse(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = number + getattr(error, "lineno", 1) - 1
        raise CommandError(f"{path}:{line}: not valid JSON: {getattr(error, 'msg', 'nested too deeply')}") from error


def _as_row(path: Path, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise CommandError(f"{path}:{number}: a row should be an object")
    return row
