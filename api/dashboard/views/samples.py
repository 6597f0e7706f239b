"""The first rows of a data set as conversations, with what is trained on told apart from what is only read.

Rows of formats that are not trained on here are shown too, so that whoever brought them sees what they are.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

SAMPLE_BYTES = 128 * 1024
MOST_SAMPLES = 5
OTHER_FIELDS = (
    *("system", "input", "prompt", "instruction", "question", "completion", "response", "output"),
    *("chosen", "preferred_output", "rejected", "non_preferred_output", "text"),
)
"""Of prompt and completion, preference pairs and plain text."""
MOST_CHARACTERS = 4000
"""Of one message; the rest is said to be cut."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """`trained`: the loss counts on this message."""

    role: str
    text: str
    trained: bool
    cut_characters: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    line: int
    messages: tuple[Message, ...]


def read_samples(start: bytes) -> list[Sample]:
    """From a file's first bytes; rows that are not whole or not chats are left out."""
    samples: list[Sample] = []
    for number, line in enumerate(start.split(b"\n"), start=1):
        if len(samples) == MOST_SAMPLES:
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        shown = _read_row(row) if isinstance(row, dict) else ()
        if shown:
            samples.append(Sample(line=number, messages=shown))
    return samples


def _read_row(row: dict[str, Any]) -> tuple[Message, ...]:
    messages = row.get("messages")
    if isinstance(messages, list):
        return tuple(_show(message) for message in messages if isinstance(message, dict))
    return tuple(message for name in OTHER_FIELDS if name in row for message in _show_untrained(row[name], name))


def _show_untrained(value: Any, name: str) -> list[Message]:
    """A field of a row that is no conversation: a text, a message or a list of these."""
    found = []
    for part in value if isinstance(value, list) else [value]:
        said = part if isinstance(part, dict) else {"content": part}
        inner = said.get("messages")
        if isinstance(inner, list):
            found += _show_untrained(inner, name)
            continue
        role = f"{name}, {said['role']}" if isinstance(said.get("role"), str) else name
        found.append(replace(_show({**said, "role": role}), trained=False))
    return found


def _show(message: dict[str, Any]) -> Message:
    role, content = str(message.get("role", "?")), message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    text = content if isinstance(content, str) else _join_parts(content)
    if calls:
        text = f"{text}\n{json.dumps(calls, indent=2, ensure_ascii=False)}".strip()
    return Message(
        role=role,
        text=text[:MOST_CHARACTERS],
        trained=role == "assistant" and message.get("weight", 1) != 0,
        cut_characters=max(0, len(text) - MOST_CHARACTERS),
    )


def _join_parts(content: Any) -> str:
    """Content may be a list of parts with a text each."""
    parts = content if isinstance(content, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
