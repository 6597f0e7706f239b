"""How results look: tables for people, JSON for programs, and every figure with its unit.

At a terminal tables are drawn and coloured; into a pipe they are plain columns that are never cut. Text of others is
made harmless here, so what a command prints goes through these functions.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from api.cli.plain import harmless, harmless_json
from api.client.results import Result

PIPE_COLUMNS = 500
ROOMY_COLUMNS = 130
SHORT_ID = 8
STATUS_STYLES = {
    "succeeded": "green",
    "processed": "green",
    "ready": "green",
    "running": "cyan",
    "failed": "red",
    "error": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "restarting": "yellow",
}


def make_console(*, stderr: bool = False) -> Console:
    """A console that wraps at the terminal's edge, and nowhere when there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False, soft_wrap=False)


def show(value: Result | Sequence[Result], *, as_json: bool, draw: Callable[[Console], None]) -> None:
    """Print a result, or a list of them, as JSON or as its drawing."""
    if as_json:
        print_json([item.model_dump(mode="json") for item in value] if isinstance(value, Sequence) else value)
    else:
        draw(make_console())


def print_line(console: Console, text: str, *, style: str | None = None) -> None:
    """A sentence in which nothing is markup; line ends stay."""
    console.print(harmless(text, keep="\n\t"), style=style, markup=False)


def print_json(value: Any) -> None:
    plain = value.model_dump(mode="json") if isinstance(value, Result) else value
    sys.stdout.write(harmless_json(json.dumps(plain, indent=2, ensure_ascii=False)) + "\n")


def print_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, none: str) -> None:
    """`none` is said when there are no rows. A column whose name ends in a blank is aligned to the right.

    Where the terminal is too narrow the widest column is folded, and no other.
    """
    listed = list(rows)
    if not listed:
        console.print(none, style="dim")
        return
    if not console.is_terminal:
        _print_plain(console, columns, [[harmless(str(cell)) for cell in row] for row in listed])
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1), pad_edge=False, show_edge=False)
    widths = [max(len(str(row[index])) for row in listed) for index in range(len(columns))]
    folded = max(range(1, len(columns)), key=lambda index: widths[index], default=0)
    for index, name in enumerate(columns):
        justify: JustifyMethod = "right" if name.endswith(" ") else "left"
        table.add_column(name.strip(), justify=justify, overflow="fold", no_wrap=index != folded)
    for row in listed:
        table.add_row(*(harmless_cell(cell) for cell in row))
    console.print(table)


def harmless_cell(cell: str | Text) -> Text:
    """A text for a table, in which neither brackets nor control characters mean anything."""
    plain = harmless(str(cell))
    return cell if isinstance(cell, Text) and cell.plain == plain else Text(plain, getattr(cell, "style", ""))


def print_facts(console: Console, facts: Iterable[tuple[str, str | Text | None]]) -> None:
    """Name and value, one a line; a value that is not there is left out."""
    known = [(name, value) for name, value in facts if value is not None and str(value)]
    if not console.is_terminal:
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            console.print(f"{name:{width}}  {harmless(str(value))}", markup=False)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in known:
        table.add_row(name, harmless_cell(value))
    console.print(table)


def _print_plain(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns with two blanks between them and none at the end of a line."""
    lines = [[name.strip() for name in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if name.endswith(" ") else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        ]
        console.print("  ".join(cells).rstrip(), markup=False)


def show_id(console: Console, object_id: str) -> str:
    """The whole id, or its end on a screen without room for it; commands take ends, too."""
    return object_id if not console.is_terminal or console.width >= ROOMY_COLUMNS else object_id[-SHORT_ID:]


def say_since(console: Console, unix_seconds: float) -> str:
    """The local time, or how long ago that was on a screen without room for it."""
    if not console.is_terminal or console.width >= ROOMY_COLUMNS:
        return say_moment(unix_seconds)
    return f"{say_age(time.time() - unix_seconds)} ago"


def status_text(status: str) -> Text:
    return Text(status, style=STATUS_STYLES.get(status, ""))


def say_bytes(size_bytes: int | None) -> str:
    """1536 is '1.5 KiB'."""
    if size_bytes is None:
        return ""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def say_part(part_bytes: int, whole_bytes: int) -> str:
    """'9.8 of 23.6 GiB': both in the unit of the whole."""
    whole = say_bytes(whole_bytes)
    unit = whole.split()[1]
    scale = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    return f"{part_bytes / scale:.{0 if unit == 'B' else 1}f} of {whole}"


def say_seconds(seconds: float | None) -> str:
    """3725 is '1h 02m 05s'."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m {rest:02d}s" if hours else f"{minutes}m {rest:02d}s"


def say_age(seconds: float) -> str:
    """To the largest unit: 3725 is '1h 02m', 90 is '1m 30s', a week '7d'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m" if whole < 2 * 86_400 else f"{whole // 86_400}d"


def say_moment(unix_seconds: float | None) -> str:
    """The local time, to the second."""
    if unix_seconds is None:
        return ""
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def say_clock(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%H:%M:%S")


def say_usd(usd_micros: int | None) -> str:
    """Exact to the micro-dollar: 1234567 is '$1.234567'."""
    if usd_micros is None:
        return ""
    sign = "-" if usd_micros < 0 else ""
    dollars, micros = divmod(abs(usd_micros), 1_000_000)
    return f"{sign}${dollars}.{micros:06d}"
