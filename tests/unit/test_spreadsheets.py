"""Tables that spreadsheets read as text: quoting, formulas, and one block at a time."""

import csv
import io
from collections.abc import Iterator

import pytest

from api.spreadsheets import Cell, write_csv


def read_back(*rows: list[Cell]) -> list[list[str]]:
    text = b"".join(write_csv(["a", "b"], [rows])).decode()
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠a"])
def test_what_would_be_calculated_is_text(text: str) -> None:
    assert read_back([text, "x"]) == [["'" + text, "x"]]


@pytest.mark.parametrize("text", ["a=1", "1.5", "", "it's", 'say "hi"', "a,b", "a\nb", "{}", "été"])
def test_everything_else_is_as_it_was(text: str) -> None:
    assert read_back([text, 7]) == [[text, "7"]]


def test_nothing_is_an_empty_cell() -> None:
    assert read_back([None, 0]) == [["", "0"]]


def test_a_block_is_asked_for_when_the_one_before_was_taken() -> None:
    asked: list[int] = []

    def blocks() -> Iterator[list[list[Cell]]]:
        for number in range(3):
            asked.append(number)
            yield [[number, number]]

    chunks = write_csv(["a", "b"], blocks())
    assert (next(chunks), asked) == (b"a,b\r\n", [])
    assert (next(chunks), asked) == (b"0,0\r\n", [0])
    assert b"".join(chunks) == b"1,1\r\n2,2\r\n"
