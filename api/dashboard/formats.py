"""How the dashboard writes figures: every number with its unit, moments relative, money in cents; the exact value is
what the mouse finds.
"""

import re
from datetime import UTC, datetime

from markupsafe import Markup

MICROS_PER_CENT = 10_000
SOON_SECONDS = 5
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STEPS = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "d"))


def say_bytes(size: float | None) -> str:
    """1610612736 is '1.5 GiB'."""
    if size is None:
        return "–"
    value, unit = float(size), 0
    while abs(value) >= 1024 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_BINARY[unit]}" if unit == 0 or abs(value) >= 100 else f"{value:.1f} {_BINARY[unit]}"


def say_count(number: float | None) -> str:
    """12345 is '12,345'."""
    return "–" if number is None else f"{number:,.0f}"


def say_short(number: float | None) -> str:
    """1234567 is '1.2 M'."""
    if number is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,.0f}"


def say_duration(seconds: float | None) -> str:
    """The two largest units: '2 h 05 min'."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def say_usd(micros: int | None) -> Markup:
    """Cents; below one cent as much as shows the amount. The title is exact to the micro-dollar."""
    if micros is None:
        return Markup('<span class="none">–</span>')
    shown = f"${micros / 1e6:,.2f}"
    if 0 < abs(micros) < MICROS_PER_CENT:
        shown = "<$0.01"
    title = f"{micros:,} µ$ = ${micros / 1e6:,.6f}"
    return Markup('<data class="num" value="{}" title="{}">{}</data>').format(micros, title, shown)


def say_relative(seconds: float) -> str:
    """How long ago, negative in the future: '5 min ago', 'in 2 h'."""
    size = abs(seconds)
    if size < 5:
        return "now"
    for limit, unit_seconds, unit in _STEPS:
        if size < limit:
            text = f"{size / unit_seconds:.0f} {unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    days = round(size / 86_400)
    return f"{days} d ago" if seconds > 0 else f"in {days} d"


def say_moment(unix_seconds: float | None) -> Markup:
    """A <time> that tells how long ago, and when exactly on hover."""
    if unix_seconds is None:
        return Markup('<span class="none">–</span>')
    at = datetime.fromtimestamp(unix_seconds, UTC)
    relative = say_relative(datetime.now(UTC).timestamp() - unix_seconds)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%d %H:%M:%S UTC"), relative
    )


def say_finish(unix_seconds: float) -> Markup:
    """When a job is expected to end; what is late is expected any moment."""
    if unix_seconds <= datetime.now(UTC).timestamp():
        return Markup("any moment")
    return say_moment(unix_seconds)


def say_start(unix_seconds: float) -> Markup:
    """When a job that is not submitted yet would start."""
    if unix_seconds <= datetime.now(UTC).timestamp() + SOON_SECONDS:
        return Markup("at once, when its files are checked")
    return say_moment(unix_seconds)


def say_figure(value: float | None) -> str:
    """Four significant digits."""
    return "–" if value is None else f"{value:.4g}"


def say_id(object_id: str) -> Markup:
    """The end of an id, which is its random part; whole on hover."""
    end = object_id[-8:] if len(object_id) > 12 else object_id
    return Markup('<code class="id" title="{}">{}</code>').format(object_id, end)


def say_line(text: str) -> str:
    """A line of a log without what would colour, move or turn round what stands beside it; as logs.js does."""
    return _BIDI.sub("\ufffd", _CONTROLS.sub("", _ESCAPES.sub("", text)))


FILTERS = {
    "line": say_line,
    "bytes": say_bytes,
    "count": say_count,
    "short": say_short,
    "duration": say_duration,
    "usd": say_usd,
    "moment": say_moment,
    "finish": say_finish,
    "start": say_start,
    "figure": say_figure,
    "short_id": say_id,
}
