"""Whatever bytes come, the validator ends with a report; how they are cut into chunks changes nothing."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain import datasets
from orchestrator.domain.datasets import HINTS, DatasetValidator, validate_dataset
from orchestrator.domain.strict_json import StrictJsonError, parse_json

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
PIECES = [
    GOOD,
    b"\n",
    b"\r\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"\\ud800",
    b"\\udc00",
    b"NaN",
    b"1e999",
    b"\xff",
    b"\xc3",
]
PIECES += [b"\xef\xbb\xbf", b"\x00", b'"messages":', b'"role":', b'"tool"', b"null", b",", b":", b" ", b"\xe2\x80\xa8"]
noise = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["user", "assistant", "tool"]),
)
names = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["messages", "role", "content", "weight", "tools", "tool_calls", "tool_call_id", "function"]),
    st.sampled_from(["name", "arguments", "id", "type", "text", "functions", "function_call", "parameters"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
    max_leaves=25,
)
messages = st.lists(
    st.one_of(
        values,
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool"])},
            optional={
                "content": values,
                "weight": values,
                "tool_calls": values,
                "tool_call_id": values,
                "function_call": values,
            },
        ),
    ),
    max_size=5,
)
rows = st.one_of(values, st.fixed_dictionaries({"messages": messages}, optional={"tools": values, "functions": values}))


def _check_report(data: bytes, *, chunk_bytes: int) -> None:
    validator = DatasetValidator()
    for at in range(0, len(data), chunk_bytes):
        validator.feed(data[at : at + chunk_bytes])
    report = validator.finish()
    assert report == validate_dataset([data])
    assert report.size_bytes == len(data)
    assert report.is_valid == (not report.problems)
    assert len(report.problems) <= datasets.MAX_PROBLEMS
    for problem in (*report.problems, *report.warnings):
        assert problem.code in HINTS
        assert 0 <= problem.byte_offset <= len(data)
        assert 0 <= problem.line <= data.count(b"\n") + 1
        assert len(problem.as_sentence()) < 600
    stored = json.dumps(report.as_json(), allow_nan=False)
    assert "\\u0000" not in stored.replace("\\\\u0000", "")  # PostgreSQL's JSON refuses it
    stored.encode()


@settings(deadline=None)
@given(noise, st.integers(1, 50))
def test_no_bytes_break_it(data: bytes, chunk_bytes: int) -> None:
    _check_report(data, chunk_bytes=chunk_bytes)


@settings(deadline=None)
@given(st.lists(rows, max_size=4))
def test_no_json_breaks_it(values_of_lines: list[Any]) -> None:
    data = b"\n".join(json.dumps(value).encode() for value in values_of_lines)
    _check_report(data, chunk_bytes=17)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_good_file_is_refused_or_still_good(data: st.DataObject) -> None:
    content = bytearray(b"\n".join([GOOD] * 3))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    _check_report(bytes(content), chunk_bytes=64)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_strict_json_accepts_nothing_that_python_refuses(text: str) -> None:
    value, refusal = _parse(text)
    if refusal is None:
        assert json.loads(text) == value
        json.dumps(value, allow_nan=False).encode()
    else:
        assert 0 <= refusal.position <= len(text)


@settings(deadline=None)
@given(values)
def test_strict_json_reads_what_strict_json_writes(value: Any) -> None:
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return
    parsed, refusal = _parse(text)
    assert parsed == value if refusal is None else refusal.code == "lone_surrogate"


def _parse(text: str) -> tuple[Any, StrictJsonError | None]:
    try:
        return parse_json(text), None
    except StrictJsonError as error:
        return None, error
