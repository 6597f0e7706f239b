"""Is one row a chat example that can be trained on? OpenAI's supervised format, checked without the model.

Findings name where (a JSON path), what (a code) and why; never what a message says, because logs and errors travel
further than the data may. What only a model's template can tell, such as the order of turns, is left to it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.datasets_tools import ToolTalk, check_calls, check_tools
from orchestrator.domain.strict_json import show_name

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
ROW_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_COMMON_KEYS = frozenset({"role", "content", "name"})
MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": _COMMON_KEYS,
    "developer": _COMMON_KEYS,
    "user": _COMMON_KEYS,
    "assistant": _COMMON_KEYS | {"weight", "tool_calls", "function_call"},
    "tool": _COMMON_KEYS | {"tool_call_id"},
    "function": _COMMON_KEYS,
}
NULL_KEYS = frozenset({"refusal", "audio", "tool_calls", "function_call", "name"})
"""Keys that OpenAI's own answers carry as null; nothing is lost by passing over them."""

OTHER_FORMATS: tuple[tuple[str, frozenset[str]], ...] = (
    ("preference (input, preferred_output, non_preferred_output)", frozenset({"input", "preferred_output"})),
    ("preference (prompt, chosen, rejected)", frozenset({"chosen", "rejected"})),
    ("prompt and completion", frozenset({"prompt", "completion"})),
    ("ShareGPT (conversations)", frozenset({"conversations"})),
    ("Alpaca (instruction, output)", frozenset({"instruction", "output"})),
    ("pre-tokenized (input_ids)", frozenset({"input_ids"})),
    ("plain text (text)", frozenset({"text"})),
)
_PLAIN_WORD = re.compile(r"[A-Za-z_-]{1,20}")


@dataclass(frozen=True)
class Finding:
    code: str
    path: str
    message: str


def kind_of(value: object) -> str:
    """What JSON calls a value's type."""
    if value is None:
        return "null"
    for type_, name in ((bool, "a boolean"), (int | float, "a number"), (str, "a string"), (list, "a list")):
        if isinstance(value, type_):
            return name
    return "an object"


def check_row(row: Any) -> Iterator[Finding]:
    """Everything that is wrong with a parsed row; nothing when it can be used."""
    if not isinstance(row, dict):
        yield Finding("not_object", "", f"the line is {kind_of(row)}, not an object")
        return
    other = next((name for name, keys in OTHER_FORMATS if keys <= row.keys()), None)
    if "messages" not in row:
        if other is None:
            yield Finding("missing_messages", "", "the row has no key 'messages'")
        else:
            yield Finding("unknown_format", "", f"the row is in another format: {other}")
        return
    if other is not None:
        yield Finding("mixed_formats", "", f"the row fits two formats: messages, and {other}")
        return
    for key in sorted(row.keys() - ROW_KEYS):
        yield Finding("unrecognized_key", "", f"the row has the unknown key {show_name(key)}")
    if not isinstance(row.get("parallel_tool_calls", False), bool):
        yield Finding("bad_tool_schema", "parallel_tool_calls", "it is not true or false")
    tools = ToolTalk()
    yield from (Finding("bad_tool_schema", path, message) for path, message in check_tools(row, tools))
    yield from _check_messages(row["messages"], tools)


def _check_messages(messages: object, tools: ToolTalk) -> Iterator[Finding]:
    if not isinstance(messages, list):
        yield Finding("messages_wrong_type", "messages", f"it is {kind_of(messages)}, not a list")
        return
    if not messages:
        yield Finding("messages_empty", "messages", "the list is empty")
        return
    all_readable = True
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if isinstance(role, str) and role in ROLES:
            yield from _check_message(message, role, f"messages[{number}]")
        else:
            all_readable = False
            yield _unreadable(message, f"messages[{number}]")
    if all_readable:
        yield from _check_turns(messages)
        yield from (Finding("bad_tool_call", path, message) for path, message in check_calls(messages, tools))


def _unreadable(message: object, path: str) -> Finding:
    """Why we can't tell whose message it is."""
    if not isinstance(message, dict):
        return Finding("message_not_object", path, f"it is {kind_of(message)}, not an object")
    if "role" not in message:
        return Finding("missing_role", path, "it has no key 'role'")
    role = message["role"]
    if not isinstance(role, str):
        shown = kind_of(role)
    elif _PLAIN_WORD.fullmatch(role):
        shown = repr(role)
    else:
        shown = f"a string of {len(role)} characters"
    return Finding("unrecognized_role", f"{path}.role", f"it is {shown}, not one of {', '.join(sorted(ROLES))}")


def _check_message(message: dict[str, Any], role: str, path: str) -> Iterator[Finding]:
    for key in sorted(message.keys() - MESSAGE_KEYS[role]):
        if key in NULL_KEYS and message[key] is None:
            continue
        if key == "weight":
            yield Finding("unrecognized_key", path, f"only an assistant's message has a weight, this is a {role}'s")
        else:
            yield Finding("unrecognized_key", path, f"a {role}'s message has the unknown key {show_name(key)}")
    yield from _check_content(message, role, path)
    if not isinstance(message.get("name") or "", str):
        yield Finding("content_wrong_type", f"{path}.name", f"it is {kind_of(message['name'])}, not a string")
    if role == "assistant" and "weight" in message:
        yield from _check_weight(message["weight"], f"{path}.weight")


def _check_content(message: dict[str, Any], role: str, path: str) -> Iterator[Finding]:
    acts = bool(message.get("tool_calls") or message.get("function_call"))
    content = message.get("content")
    if content is None:
        if role == "assistant" and acts:
            return
        if role == "assistant" and "content" in message:
            yield Finding("empty_assistant", f"{path}.content", "there is nothing to learn: null, and no tool call")
        else:
            yield Finding("missing_content", path, f"a {role}'s message needs 'content'")
    elif isinstance(content, list):
        yield from _check_parts(content, f"{path}.content")
    elif not isinstance(content, str):
        yield Finding("content_wrong_type", f"{path}.content", f"it is {kind_of(content)}, not a string")
    elif role == "assistant" and not acts and not content.strip():
        yield Finding("empty_assistant", f"{path}.content", "there is nothing to learn: the text is empty")


def _check_parts(parts: list[Any], path: str) -> Iterator[Finding]:
    """Content as a list of parts, of which only texts are understood."""
    for number, part in enumerate(parts):
        place = f"{path}[{number}]"
        if not isinstance(part, dict):
            yield Finding("content_wrong_type", place, f"it is {kind_of(part)}, not an object")
        elif part.get("type") != "text":
            yield Finding("content_wrong_type", place, "only parts of type 'text' can be trained on")
        elif not isinstance(part.get("text"), str):
            yield Finding("content_wrong_type", place, "a text part needs a string 'text'")
    if not parts:
        yield Finding("content_wrong_type", path, "the list of parts is empty")


def _check_weight(weight: object, path: str) -> Iterator[Finding]:
    if isinstance(weight, bool) or not isinstance(weight, int):
        yield Finding("weight_wrong_type", path, f"it is {kind_of(weight)}, not the whole number 0 or 1")
    elif weight not in {0, 1}:
        yield Finding("weight_out_of_range", path, "it is neither 0 nor 1")


def _check_turns(messages: list[dict[str, Any]]) -> Iterator[Finding]:
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        yield Finding("no_assistant", "messages", "no message is the assistant's, so there is nothing to learn")
    elif messages[-1]["role"] != "assistant":
        last = len(messages) - 1
        yield Finding("bad_turn_order", f"messages[{last}]", f"the last message is a {messages[-1]['role']}'s")
    elif all(answer.get("weight") == 0 for answer in answers):
        yield Finding("weight_all_zero", "messages", "every assistant's message has weight 0: nothing to learn")
