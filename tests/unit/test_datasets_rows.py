"""One row: each way in which it can be wrong, by code and place, and what is right."""

from typing import Any

import pytest

from orchestrator.domain.datasets_rows import check_row

USER = {"role": "user", "content": "why?"}
ANSWER = {"role": "assistant", "content": "because"}
TOOL = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}}


def _call(identifier: Any = "c1", name: Any = "look", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def _calls(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def _result(identifier: Any = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": "42"}


def _row(*messages: Any, **others: Any) -> dict[str, Any]:
    return {"messages": list(messages), **others}


GOOD_ROWS: list[dict[str, Any]] = [
    _row(USER, ANSWER),
    _row(ANSWER),
    _row({"role": "system", "content": ""}, USER, ANSWER, USER, ANSWER),
    _row({"role": "developer", "content": "be nice"}, {**USER, "name": "ann"}, {**ANSWER, "weight": 1}),
    _row(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1, "refusal": None, "audio": None}),
    _row({"role": "user", "content": [{"type": "text", "text": "why?"}]}, ANSWER),
    _row(USER, _calls(_call()), _result(), ANSWER, tools=[TOOL], parallel_tool_calls=False),
    _row(USER, _calls(_call("a"), _call("b")), _result("b"), _result("a"), ANSWER),
    _row(USER, _calls(_call()), tools=[TOOL]),
    _row(USER, {"role": "assistant", "tool_calls": [_call()]}),
    _row(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "42"},
        ANSWER,
        functions=[TOOL["function"]],
    ),
]

BAD_ROWS: list[tuple[Any, str, str]] = [
    ([], "", "not_object"),
    ({}, "", "missing_messages"),
    ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "", "unknown_format"),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "", "unknown_format"),
    ({"conversations": []}, "", "unknown_format"),
    ({"instruction": "a", "input": "", "output": "b"}, "", "unknown_format"),
    ({"input_ids": [1]}, "", "unknown_format"),
    ({"text": "a"}, "", "unknown_format"),
    (_row(USER, ANSWER, prompt="a", completion="b"), "", "mixed_formats"),
    (_row(USER, ANSWER, tool=[]), "", "unrecognized_key"),
    ({"messages": {}}, "messages", "messages_wrong_type"),
    ({"messages": None}, "messages", "messages_wrong_type"),
    (_row(), "messages", "messages_empty"),
    (_row(USER, "hello"), "messages[1]", "message_not_object"),
    (_row({"content": "x"}), "messages[0]", "missing_role"),
    (_row({"role": "User", "content": "x"}), "messages[0].role", "unrecognized_role"),
    (_row({"role": 7, "content": "x"}), "messages[0].role", "unrecognized_role"),
    (_row({"role": ["user"], "content": "x"}), "messages[0].role", "unrecognized_role"),
    (_row({"role": "user"}, ANSWER), "messages[0]", "missing_content"),
    (_row({"role": "user", "content": None}, ANSWER), "messages[0]", "missing_content"),
    (_row(USER, {"role": "assistant"}), "messages[1]", "missing_content"),
    (_row(USER, {"role": "assistant", "content": None}), "messages[1].content", "empty_assistant"),
    (_row(USER, {"role": "assistant", "content": " \n"}), "messages[1].content", "empty_assistant"),
    (_row(USER, {"role": "assistant", "content": None, "tool_calls": []}), "messages[1].content", "empty_assistant"),
    (_row({"role": "user", "content": 7}, ANSWER), "messages[0].content", "content_wrong_type"),
    (_row({"role": "user", "content": []}, ANSWER), "messages[0].content", "content_wrong_type"),
    (_row({"role": "user", "content": ["x"]}, ANSWER), "messages[0].content[0]", "content_wrong_type"),
    (
        _row({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER),
        "messages[0].content[0]",
        "content_wrong_type",
    ),
    (_row({"role": "user", "content": [{"type": "text"}]}, ANSWER), "messages[0].content[0]", "content_wrong_type"),
    (_row({**USER, "name": 7}, ANSWER), "messages[0].name", "content_wrong_type"),
    (_row({**USER, "contents": ""}, ANSWER), "messages[0]", "unrecognized_key"),
    (_row({**USER, "weight": 1}, ANSWER), "messages[0]", "unrecognized_key"),
    (_row(USER, {**ANSWER, "refusal": "no"}), "messages[1]", "unrecognized_key"),
    (_row({**USER, "tool_calls": [_call()]}, ANSWER), "messages[0]", "unrecognized_key"),
    (_row(USER, {**ANSWER, "weight": True}), "messages[1].weight", "weight_wrong_type"),
    (_row(USER, {**ANSWER, "weight": "1"}), "messages[1].weight", "weight_wrong_type"),
    (_row(USER, {**ANSWER, "weight": 0.5}), "messages[1].weight", "weight_wrong_type"),
    (_row(USER, {**ANSWER, "weight": 2}), "messages[1].weight", "weight_out_of_range"),
    (_row(USER, {**ANSWER, "weight": 0}), "messages", "weight_all_zero"),
    (_row(USER), "messages", "no_assistant"),
    (_row(USER, ANSWER, USER), "messages[2]", "bad_turn_order"),
    (_row(USER, _result(), ANSWER), "messages[1].tool_call_id", "bad_tool_call"),
    (_row(USER, _calls(_call()), _result("c2"), _result(), ANSWER), "messages[2].tool_call_id", "bad_tool_call"),
    (_row(USER, _calls(_call()), _result(7), _result(), ANSWER), "messages[2].tool_call_id", "bad_tool_call"),
    (_row(USER, _calls(_call()), ANSWER), "messages[1].tool_calls[0]", "bad_tool_call"),
    (_row(USER, _calls(_call(), _call()), _result(), ANSWER), "messages[1].tool_calls[1].id", "bad_tool_call"),
    (_row(USER, _calls(_call(None))), "messages[1].tool_calls[0].id", "bad_tool_call"),
    (_row(USER, _calls("call")), "messages[1].tool_calls[0]", "bad_tool_call"),
    (
        _row(USER, {"role": "assistant", "content": "", "tool_calls": {"a": 1}}),
        "messages[1].tool_calls",
        "bad_tool_call",
    ),
    (_row(USER, _calls({**_call(), "type": "web"})), "messages[1].tool_calls[0].type", "bad_tool_call"),
    (_row(USER, _calls({"id": "c1"})), "messages[1].tool_calls[0].function", "bad_tool_call"),
    (_row(USER, _calls(_call(name="other")), tools=[TOOL]), "messages[1].tool_calls[0].function.name", "bad_tool_call"),
    (_row(USER, _calls(_call(name=""))), "messages[1].tool_calls[0].function.name", "bad_tool_call"),
    (_row(USER, _calls(_call(arguments={}))), "messages[1].tool_calls[0].function.arguments", "bad_tool_call"),
    (_row(USER, _calls(_call(arguments="{"))), "messages[1].tool_calls[0].function.arguments", "bad_tool_call"),
    (_row(USER, _calls(_call(arguments="7"))), "messages[1].tool_calls[0].function.arguments", "bad_tool_call"),
    (_row({"role": "function", "name": "look", "content": "42"}, ANSWER), "messages[0]", "bad_tool_call"),
    (_row(USER, ANSWER, tools={}), "tools", "bad_tool_schema"),
    (_row(USER, ANSWER, tools=["look"]), "tools[0]", "bad_tool_schema"),
    (_row(USER, ANSWER, tools=[{**TOOL, "type": "web"}]), "tools[0].type", "bad_tool_schema"),
    (_row(USER, ANSWER, tools=[{"type": "function"}]), "tools[0].function", "bad_tool_schema"),
    (_row(USER, ANSWER, tools=[TOOL, TOOL]), "tools[1].function.name", "bad_tool_schema"),
    (_row(USER, ANSWER, functions=[{"name": "a b"}]), "functions[0].name", "bad_tool_schema"),
    (_row(USER, ANSWER, functions=[{"name": "a", "parameters": [1]}]), "functions[0].parameters", "bad_tool_schema"),
    (_row(USER, ANSWER, functions=[{"name": "a", "description": 7}]), "functions[0].description", "bad_tool_schema"),
    (_row(USER, ANSWER, parallel_tool_calls="no"), "parallel_tool_calls", "bad_tool_schema"),
]


@pytest.mark.parametrize("row", GOOD_ROWS)
def test_a_good_row_has_no_finding(row: dict[str, Any]) -> None:
    assert list(check_row(row)) == []


@pytest.mark.parametrize(("row", "path", "code"), BAD_ROWS)
def test_a_bad_row_has_exactly_this_finding(row: Any, path: str, code: str) -> None:
    assert [(found.path, found.code) for found in check_row(row)] == [(path, code)]


def test_all_problems_of_a_row_are_found() -> None:
    row = _row({"role": "usr"}, {"role": "user", "content": 1, "x": 2}, 7, extra=1)
    assert [found.code for found in check_row(row)] == [
        "unrecognized_key",
        "unrecognized_role",
        "unrecognized_key",
        "content_wrong_type",
        "message_not_object",
    ]


def test_keys_are_shown_short_and_escaped() -> None:
    (found,) = check_row(_row(USER, ANSWER, **{"k\x00\ud800" + "y" * 100: 1}))
    assert found.message == 'the row has the unknown key "k\\u0000\\ud800' + "y" * 37 + '\\u2026"'
    assert found.message.isascii()


def test_a_role_that_is_no_word_is_not_shown() -> None:
    (found,) = check_row(_row({"role": "My name is Ann", "content": "x"}))
    assert "Ann" not in found.message
    assert "a string of 14 characters" in found.message
