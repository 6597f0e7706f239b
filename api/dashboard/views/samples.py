"""The first rows of a data set as conversations, with what is trained on told apart from what is only read."""

import json
from dataclasses import dataclass
from typing import Any

SAMPLE_BYTES = 128 * 1024
MOST_SAMPLES = 5
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
        messages = row.get("messages") if isinstance(row, dict) else None
        if isinstance(messages, list) and messages:
            shown = tuple(_show(message) for message in messages if isinstance(message, dict))
            samples.append(Sample(line=number, messages=shown))
    return samples


def _show(message: dict[str, Any]) -> Message:
    role, content = str(message.get("role", "?")), message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    text = content if isinstance(content, str) else ""
    if calls:
        text = f"{text}\n{json.dumps(calls, indent=2, ensure_ascii=False)}".strip()
    return Message(
        role=role,
        text=text[:MOST_CHARACTERS],
        trained=role == "assistant" and message.get("weight", 1) != 0,
        cut_characters=max(0, len(text) - MOST_CHARACTERS),
    )
