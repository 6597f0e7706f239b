"""Markdown that the reference pages share."""

from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `python -m api docs`; change the code, not this page. -->"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, with an empty line behind it; none without rows."""
    lines = ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]
    if not lines:
        return []
    return ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |", *lines, ""]


def cell(text: str) -> str:
    """One line that does not end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def page(lines: Iterable[str]) -> str:
    """The whole text: no empty line twice, one line end at its end."""
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line.rstrip())
    return "\n".join(kept).rstrip() + "\n"
