"""A data set file as a whole: lines, encodings, counts, and what the report tells."""

import json

import pytest

from orchestrator.domain import datasets
from orchestrator.domain.datasets import HINTS, DatasetReport, DatasetValidator, validate_dataset
from tests.unit.test_datasets_rows import BAD_ROWS

GOOD = {"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]}


def _line(number: int = 0) -> bytes:
    row = {"messages": [{"role": "user", "content": f"why {number}?"}, {"role": "assistant", "content": "because"}]}
    return json.dumps(row).encode() + b"\n"


def _report(*lines: bytes) -> DatasetReport:
    return validate_dataset([b"".join(lines)])


def _codes(report: DatasetReport) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in report.problems]


def test_a_good_file_has_no_problem_and_its_counts() -> None:
    tools = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with_tools = json.dumps({**GOOD, "tools": [tools]}).encode()
    report = _report(_line(1), _line(2).replace(b"\n", b"\r\n"), with_tools)
    assert report.is_valid
    assert (report.rows, report.rows_with_tools) == (3, 1)
    assert report.roles == {"user": 3, "assistant": 3}
    assert report.size_bytes == len(_line(1)) + len(_line(2)) + 1 + len(with_tools)
    assert (report.problems, report.warnings) == ((), ())


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_chunks_may_cut_anywhere(size: int) -> None:
    data = _line(1) + '{"ü€😀": 1}\n'.encode() + b"\n" + _line(1) + b"\xff\n" + _line(3)[:-1]
    whole = validate_dataset([data])
    assert validate_dataset(data[at : at + size] for at in range(0, len(data), size)) == whole
    assert _codes(whole) == [(2, "missing_messages"), (3, "blank_line"), (5, "not_utf8")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", [(0, "empty_file")]),
        (b"\n", [(1, "blank_line"), (0, "empty_file")]),
        (b" \t \r\n", [(1, "blank_line"), (0, "empty_file")]),
        (_line() + b"\n" + _line(1), [(2, "blank_line")]),
        (_line() + b"\n", [(2, "blank_line")]),
        (b"not json\n", [(1, "not_json")]),
        (b"null\n", [(1, "not_object")]),
        (b"[1]\n", [(1, "not_object")]),
        (b'"text"\n', [(1, "not_object")]),
        (_line()[:-1] + _line(1), [(1, "not_json")]),
        (_line()[:-3], [(1, "not_json")]),
        (b'{"messages": NaN}\n', [(1, "bad_number")]),
        (b'{"messages": -Infinity}\n', [(1, "bad_number")]),
        (b'{"messages": 1e999}\n', [(1, "bad_number")]),
        (b'{"messages": ' + b"9" * 5000 + b"}\n", [(1, "bad_number")]),
        (b'{"messages": 0.' + b"9" * 5000 + b"}\n", [(1, "bad_number")]),
        (b'{"messages": [], "messages": []}\n', [(1, "duplicate_key")]),
        (b'{"messages": [{"role": "user", "role": "user"}]}\n', [(1, "duplicate_key")]),
        (b"[" * 100_000 + b"\n", [(1, "too_deep")]),
        (b"[" * 65 + b"]" * 65 + b"\n", [(1, "too_deep")]),
        (b"[" * 64 + b"]" * 64 + b"\n", [(1, "not_object")]),
        (b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n", [(1, "too_deep")]),
        (_line().replace(b"why", b"\\ud83d"), [(1, "lone_surrogate")]),
        (_line().replace(b"why", b"\\ud83d\\ude00"), []),
        (_line().replace(b"why", b"\\u0000 \\\\ud800"), []),
        (_line().replace(b"why", b"\xed\xa0\x80"), [(1, "not_utf8")]),
        (_line().replace(b"why", b"\xff"), [(1, "not_utf8")]),
        (_line().replace(b"why", "naïve 日本 \u2028 \x85".encode()), []),
        (b"\xef\xbb\xbf" + _line(), [(1, "not_utf8")]),
        (_line().decode().encode("utf-16"), [(1, "not_utf8")]),
        (_line().decode().encode("utf-16-be"), [(1, "not_utf8")]),
        (_line().decode().encode("utf-16-le"), [(1, "not_utf8")]),
        (_line().decode().encode("utf-32"), [(1, "not_utf8")]),
        (b"\x1f\x8b\x08\x00 whatever\n", [(1, "not_text")]),
        (b"PK\x03\x04 whatever\n\n\n", [(1, "not_text")]),
        (b"PAR1 whatever\n", [(1, "not_text")]),
        (_line() + b'{"prompt": "a", "completion": "b"}\n', [(2, "mixed_formats")]),
        (b'{"prompt": "a", "completion": "b"}\n', [(1, "unknown_format")]),
    ],
)
def test_each_broken_file_is_named(data: bytes, expected: list[tuple[int, str]]) -> None:
    assert _codes(_report(data)) == expected


def test_a_problem_says_where_it_is() -> None:
    data = _line() + b'{"messages": [' + b'"\xc3\xa9", oops]}\n'
    (problem,) = _report(data).problems
    assert (problem.line, problem.code) == (2, "not_json")
    assert data[problem.byte_offset :].startswith(b"oops")
    broken = _line() + _line().replace(b"why", b"wh\xff")
    (problem,) = _report(broken).problems
    assert broken[problem.byte_offset] == 0xFF
    marked = b"\xef\xbb\xbf" + b"oops"
    assert marked[_report(marked).problems[1].byte_offset :] == b"oops"


def test_a_long_line_is_skipped_and_the_next_one_is_checked() -> None:
    validator = DatasetValidator(max_line_bytes=200)
    long = b'{"messages": "' + b"x" * 300 + b'"}\n'
    for part in (_line(), long[:150], long[150:250], long[250:], b"oops\n", _line(2)):
        validator.feed(part)
    report = validator.finish()
    assert _codes(report) == [(2, "line_too_long"), (3, "not_json")]
    assert report.rows == 4
    assert report.problems[1].byte_offset == len(_line()) + len(long)
    assert sum(len(piece) for piece in validator._splitter._pending) == 0


def test_a_line_of_exactly_the_limit_passes() -> None:
    line = _line()[:-1]
    for over, codes in ((0, []), (1, [(1, "line_too_long")])):
        validator = DatasetValidator(max_line_bytes=len(line) - over)
        validator.feed(line)
        assert _codes(validator.finish()) == codes


def test_the_first_problems_are_listed_and_all_are_counted() -> None:
    report = _report(b"oops\n" * 1000, b"[]\n" * 1000, b"\n" * 1000, b'{"messages": []}\n')
    assert report.problem_counts == {"not_json": 1000, "not_object": 1000, "blank_line": 1000, "messages_empty": 1}
    assert len(report.problems) == datasets.MAX_PROBLEMS
    listed = [problem.code for problem in report.problems]
    assert listed[:20] == ["not_json"] * 20
    assert listed[20:40] == ["not_object"] * 20
    assert listed[40:] == ["blank_line"] * 10


def test_one_row_cannot_fill_the_report() -> None:
    row = json.dumps({"messages": [7] * 100_000}).encode()
    report = _report(row + b"\n", b"oops\n")
    assert report.problem_counts == {"message_not_object": datasets.MAX_PROBLEMS_PER_ROW, "not_json": 1}


def test_too_few_examples_only_when_asked() -> None:
    assert validate_dataset([_line(1) + _line(2)]).is_valid
    assert _codes(validate_dataset([_line(1) + _line(2)], min_rows=3)) == [(0, "too_few_examples")]
    assert validate_dataset([_line(1) + _line(2)], min_rows=2).is_valid


def test_repeated_rows_are_a_warning() -> None:
    report = _report(_line(1), _line(2), _line(1), _line(2), _line(1))
    assert report.is_valid
    (warning,) = report.warnings
    assert (warning.line, warning.code) == (3, "duplicate_examples")
    assert warning.message == "3 rows repeat an earlier one; here line 1"


def test_the_report_is_plain_json_without_the_examples() -> None:
    secret = "the-patient-s-name"
    rows = [
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": [secret]}, {"role": "assistant", "weight": secret}]},
        {"messages": secret},
        [secret],
    ]
    report = _report(
        *(json.dumps(row).encode() + b"\n" for row in rows), secret.encode() + b"\n", b'"' + secret.encode()
    )
    shown = json.dumps(report.as_json())
    assert not report.is_valid
    assert secret not in shown.replace(repr(secret), "")  # a role that looks like a word is shown
    assert json.loads(shown)["problems"][0]["hint"] == HINTS["unrecognized_role"]
    assert json.loads(shown)["format"] == "chat"


def test_a_sentence_has_the_line_the_path_the_code_and_the_hint() -> None:
    (problem,) = _report(_line(), b'{"messages": [{"role": "usr", "content": "x"}]}').problems
    assert problem.as_sentence() == (
        "line 2: messages[0].role: it is 'usr', not one of assistant, developer, function, system, tool, user"
        " (unrecognized_role). Use system, developer, user, assistant, tool or function."
    )


def test_every_code_that_is_reported_has_a_hint_and_the_other_way_round() -> None:
    of_files = {"empty_file", "not_utf8", "not_text", "blank_line", "line_too_long", "not_json", "duplicate_key"}
    of_files |= {"too_deep", "bad_number", "lone_surrogate", "mixed_formats", "too_few_examples", "duplicate_examples"}
    of_rows = {code for _, _, code in BAD_ROWS}
    assert of_files | of_rows == set(HINTS)
    assert len(HINTS) == 32
