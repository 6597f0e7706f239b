"""CSV that spreadsheets open as data: no cell is taken for a formula, whatever users called their things."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

CSV = "text/csv"
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
"""What spreadsheets begin to calculate with, full-width forms included (OWASP, CSV Injection)."""

Cell = str | int | None


def write_csv(header: Sequence[str], blocks: Iterable[Iterable[Sequence[Cell]]]) -> Iterator[bytes]:
    """The header, then block by block, so that no more than one block is in memory. None is an empty cell."""
    yield _encode([header])
    for block in blocks:
        yield _encode(block)


def _encode(rows: Iterable[Sequence[Cell]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([[_safe(cell) for cell in row] for row in rows])
    return text.getvalue().encode()


def _safe(cell: Cell) -> Cell:
    """An apostrophe before what would be calculated; spreadsheets show the text behind it. Amounts are never negative,
    so no number begins with a sign."""
    return "'" + cell if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell
