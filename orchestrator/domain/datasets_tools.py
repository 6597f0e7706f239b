"""Tools in a chat row: are they declared well, and does each call have its answer?

Yields (path, message) pairs, without any argument or result of a call in them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.strict_json import StrictJsonError, parse_json, show_name

Where = tuple[str, str]
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass
class ToolTalk:
    """The names that the row declares; None when it declares none, so that they can't be checked."""

    names: set[str] | None = None
    open_ids: dict[str, str] = field(default_factory=dict)
    """Calls that wait for an answer: id to path."""
    used_ids: set[str] = field(default_factory=set)


def check_tools(row: dict[str, Any], talk: ToolTalk) -> Iterator[Where]:
    """Check `tools` and the older `functions`, and note their names."""
    for key in ("tools", "functions"):
        declared = row.get(key)
        if declared is None:
            continue
        if not isinstance(declared, list):
            yield key, "it is not a list"
            continue
        talk.names = talk.names or set()
        for number, tool in enumerate(declared):
            yield from _check_tool(tool, key, f"{key}[{number}]", talk.names)


def _check_tool(tool: Any, key: str, path: str, names: set[str]) -> Iterator[Where]:
    if not isinstance(tool, dict):
        yield path, "it is not an object"
        return
    function: Any = tool
    if key == "tools":
        if tool.get("type") != "function":
            yield f"{path}.type", "it is not 'function'"
        path, function = f"{path}.function", tool.get("function")
        if not isinstance(function, dict):
            yield path, "it is not an object"
            return
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        yield f"{path}.name", "it is not 1 to 64 letters, digits, '_', '.' or '-'"
    elif name in names:
        yield f"{path}.name", f"{show_name(name)} is declared twice"
    else:
        names.add(name)
    if not isinstance(function.get("description") or "", str):
        yield f"{path}.description", "it is not a string"
    if not isinstance(function.get("parameters") or {}, dict):
        yield f"{path}.parameters", "it is not an object (a JSON schema)"


def check_calls(messages: list[dict[str, Any]], talk: ToolTalk) -> Iterator[Where]:
    """Follow the calls through the messages, whose roles are known to be good."""
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        role = message["role"]
        if role == "tool":
            yield from _check_answer(message, path, talk)
            continue
        yield from ((where, "the call has no answer") for where in talk.open_ids.values())
        talk.open_ids.clear()
        if role == "function" and not (number and messages[number - 1].get("function_call")):
            yield path, "a function's message must follow the assistant's function_call"
        if role == "assistant":
            if message.get("tool_calls") not in (None, []):
                yield from _check_tool_calls(message["tool_calls"], f"{path}.tool_calls", talk)
            if message.get("function_call") is not None:
                yield from _check_function(message["function_call"], f"{path}.function_call", talk)


def _check_answer(message: dict[str, Any], path: str, talk: ToolTalk) -> Iterator[Where]:
    answered = message.get("tool_call_id")
    if not isinstance(answered, str):
        yield f"{path}.tool_call_id", "a tool's message needs the id of the call that it answers"
    elif answered not in talk.open_ids:
        yield f"{path}.tool_call_id", "no call just before has this id"
    else:
        del talk.open_ids[answered]


def _check_tool_calls(calls: Any, path: str, talk: ToolTalk) -> Iterator[Where]:
    if not isinstance(calls, list) or not calls:
        yield path, "it is not a list of calls"
        return
    for number, call in enumerate(calls):
        place = f"{path}[{number}]"
        if not isinstance(call, dict):
            yield place, "it is not an object"
            continue
        if call.get("type", "function") != "function":
            yield f"{place}.type", "it is not 'function'"
        identifier = call.get("id")
        if not isinstance(identifier, str) or not identifier:
            yield f"{place}.id", "a call needs an id"
        elif identifier in talk.used_ids:
            yield f"{place}.id", "another call of the row has this id"
        else:
            talk.used_ids.add(identifier)
            talk.open_ids[identifier] = place
        yield from _check_function(call.get("function"), f"{place}.function", talk)


def _check_function(function: Any, path: str, talk: ToolTalk) -> Iterator[Where]:
    if not isinstance(function, dict):
        yield path, "it is not an object with 'name' and 'arguments'"
        return
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        yield f"{path}.name", "it is not the name of a tool"
    elif talk.names is not None and name not in talk.names:
        yield f"{path}.name", f"the row declares no tool {show_name(name)}"
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        yield f"{path}.arguments", "it is not a string of JSON"
        return
    try:
        value = parse_json(arguments)
    except StrictJsonError as error:
        yield f"{path}.arguments", f"it is not JSON ({error.code})"
    else:
        if not isinstance(value, dict):
            yield f"{path}.arguments", "it is not a JSON object"
