"""Text of others at a terminal: nothing that it says is obeyed, and nothing that it says is lost."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from api.cli.output import print_facts, print_json, print_line, print_table, say_age, say_part
from api.cli.plain import ASCII, UNICODE, cut, harmless, harmless_json, signs_of, survive_narrow_encodings

HOSTILE = "a\x1b]0;title\x07\x9b31m\u202eb\r\n[red]c[/red]\u200b\U000e0041"


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert harmless(HOSTILE) == r"a\x1b]0;title\x07\x9b31m\u202eb\r\n[red]c[/red]\u200b\U000e0041"
    assert harmless("é 漢字 😀 \u0627") == "é 漢字 😀 \u0627"
    assert harmless("a\tb\n", keep="\t") == "a\tb\\n"


@given(st.text())
def test_json_says_the_same_and_shows_harmlessly(text: str) -> None:
    encoded = harmless_json(json.dumps({"x": text}, ensure_ascii=False))
    assert json.loads(encoded) == {"x": text}
    assert encoded == harmless(encoded)


def consoles() -> list[Console]:
    return [
        Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None, highlight=False)
        for terminal in (True, False)
    ]


@pytest.mark.parametrize("console", consoles())
def test_tables_facts_and_lines_show_hostile_text_harmlessly(console: Console) -> None:
    print_table(console, ("NAME", "SIZE "), [(HOSTILE, Text(HOSTILE, style="red"))], none="")
    print_facts(console, [("name", HOSTILE), ("other", Text(HOSTILE))])
    print_line(console, f"it is {HOSTILE}")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert shown.count("[red]c[/red]") == 5
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\u200b", "\r"} & set(shown)


def test_json_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"x": "\u202e\x9bé"})
    assert capsys.readouterr().out == '{\n  "x": "\\u202e\\u009bé"\n}\n'


def test_signs_are_those_that_the_terminal_has() -> None:
    ascii_file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert signs_of(Console(file=ascii_file)) is ASCII
    assert signs_of(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))) is UNICODE
    assert "".join(vars(ASCII).values()).isascii()
    assert len(ASCII.steps) == len(UNICODE.steps) + 1 or len(ASCII.steps) == len(UNICODE.steps)
    survive_narrow_encodings(ascii_file)
    ascii_file.write("é…")
    ascii_file.flush()
    assert ascii_file.buffer.getvalue() == b"??"  # type: ignore[attr-defined]


def test_what_is_too_long_is_cut_with_a_sign() -> None:
    assert (cut("abc", 3, UNICODE), cut("abcd", 3, UNICODE), cut("abcd", 3, ASCII)) == ("abc", "ab…", "ab~")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59.4, "59s"), (90, "1m 30s"), (3725, "1h 02m"), (86_400, "24h 00m"), (7 * 86_400, "7d")],
)
def test_ages_are_said_to_two_units(seconds: float, text: str) -> None:
    assert say_age(seconds) == text


def test_parts_are_said_in_the_unit_of_the_whole() -> None:
    assert say_part(512 * 2**20, 24 * 2**30) == "0.5 of 24.0 GiB"
    assert say_part(3, 10) == "3 of 10 B"
