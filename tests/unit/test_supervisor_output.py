"""What a process prints, made safe to keep: lines, floods, secrets."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.loglines import (
    CUT_MARK,
    FLOOD_BYTES,
    FLOOD_BYTES_PER_SECOND,
    LINE_BYTES,
    LINE_COST_BYTES,
    REDACTED,
    RESUME_BYTES,
    FloodGate,
    LineSplitter,
    Redactor,
    cut_text,
    plain_text,
)
from orchestrator.runtime.recorder import redactor_of
from tests.support.attempt_specs import FILE_URL, POLICY, SIGNATURE, make_grant, make_spec


def split(*chunks: bytes) -> list[str]:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*lines, *splitter.finish()]


def test_lines_end_where_they_end() -> None:
    assert split(b"one\ntwo\r\nthr", b"ee\n\nfour") == ["one", "two", "three", "", "four"]


def test_of_a_progress_bar_its_last_state_stays() -> None:
    assert split(b"10%\r50%\r", b"100%\n", b"done\n") == ["100%", "done"]
    assert split(b"10%\r50%") == ["50%"]
    assert split(b"text\r", b"\n") == ["text"]
    assert split(b"text\r\r\n") == ["text"]


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1))
def test_where_the_bytes_are_cut_makes_no_difference(data: bytes, sizes: list[int]) -> None:
    chunks, rest = [], data
    for size in itertools.cycle(sizes):
        if not rest:
            break
        chunks.append(rest[:size])
        rest = rest[size:]
    assert split(*chunks) == split(data)


def test_a_line_without_an_end_holds_bounded_memory_and_says_that_it_is_cut() -> None:
    splitter = LineSplitter()
    for _ in range(1000):
        assert list(splitter.feed(b"y" * 65536)) == []
    (line,) = splitter.feed(b"end\nnext")
    assert len(line) < 17_000
    assert cut_text(line) == "y" * LINE_BYTES + CUT_MARK
    assert list(splitter.finish()) == ["next"]


def test_a_cut_never_splits_a_character() -> None:
    assert cut_text("ü" * 100, 51) == "ü" * 25 + CUT_MARK
    assert cut_text("ü" * 25, 50) == "ü" * 25


def test_terminal_codes_and_control_characters_go() -> None:
    assert (
        plain_text("\x1b[1;31mred\x1b[0m \x1b]0;title\x07and \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\")
        == "red and link"
    )
    assert plain_text("a\x00b\x08c\td\x9b31me\x7f") == "abc\tde"
    assert plain_text("cut off \x1b[3") == "cut off "


@given(st.text())
def test_plain_text_has_nothing_that_a_terminal_or_a_database_minds(text: str) -> None:
    assert not any((ord(c) < 32 and c != "\t") or 0x7F <= ord(c) < 0xA0 for c in plain_text(text))


def test_broken_utf8_becomes_text() -> None:
    assert split(b"\xff\xfe ok\n") == ["\ufffd\ufffd ok"]


def test_a_flood_is_dropped_and_counted_once_per_gap() -> None:
    now = 0.0
    gate = FloodGate(lambda: now)
    passed = 0
    while gate.admit(100)[0]:
        passed += 1
    assert passed == FLOOD_BYTES // (100 + LINE_COST_BYTES)
    for _ in range(999):
        assert gate.admit(100) == (False, 0)
    now += 0.5 * RESUME_BYTES / FLOOD_BYTES_PER_SECOND
    assert gate.admit(100) == (False, 0), "not before the gap is long enough for one notice to make sense"
    now += 0.6 * RESUME_BYTES / FLOOD_BYTES_PER_SECOND
    assert gate.admit(100) == (True, 1001)
    assert gate.admit(100) == (True, 0)


def test_a_flood_at_the_end_is_told_too() -> None:
    gate = FloodGate(lambda: 0.0)
    while gate.admit(8192)[0]:
        pass
    assert gate.finish() == 1
    assert gate.finish() == 0


def test_secrets_of_the_spec_are_replaced(tmp_path) -> None:
    redactor = redactor_of(make_spec(tmp_path))
    assert (
        redactor.clean(f"GET {FILE_URL} failed") == f"GET http://127.0.0.1:9/bucket/teams/t/files/f?{REDACTED} failed"
    )
    assert redactor.clean(f"sig={SIGNATURE};") == f"sig={REDACTED};"
    assert redactor.clean(f"{{'policy': '{POLICY}'}}") == f"{{'policy': '{REDACTED}'}}"
    assert redactor.clean("token hf_" + "a" * 30) == f"token {REDACTED}"
    assert redactor.clean("jobs/j/attempts/0001-a/ and step 900 stay") == "jobs/j/attempts/0001-a/ and step 900 stay"


def test_what_looks_like_a_secret_is_replaced_though_nobody_told_of_it() -> None:
    redactor = Redactor()
    assert redactor.clean("http://s3/x?X-Amz-Signature=abc&a=1") == f"http://s3/x?X-Amz-Signature={REDACTED}&a=1"
    assert redactor.clean("hf_" + "Z9" * 17) == REDACTED


def test_a_later_grant_is_secret_too() -> None:
    redactor = Redactor()
    assert SIGNATURE in redactor.clean(f"x {SIGNATURE}")
    redactor.add_form(make_grant().fields)
    assert redactor.clean(f"x {SIGNATURE}") == f"x {REDACTED}"
