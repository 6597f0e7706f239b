"""Text of others made harmless for a terminal, and the signs that this terminal can show.

Names, log lines and messages come from users, models and data. A terminal obeys what is in them: escape sequences move
the cursor and set titles, bidirectional marks turn text around. Here they become visible escapes, such as \\x1b.
"""

import re
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls: escape sequences, carriage returns, bells
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction (Unicode annex 9, 2.1-2.6)
    "\u200b\u2028\u2029\u2060\ufeff"  # zero-width and line separators
    "\U000e0000-\U000e007f\ud800-\udfff]"  # tags, which are invisible, and halves of surrogate pairs
)


def harmless(text: str, *, keep: str = "") -> str:
    """The text with every character that a terminal would obey written out; those in `keep` stay."""
    return _HARMFUL.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def harmless_line(text: str) -> str:
    """One line of a log or a message; tabs stay."""
    return harmless(text, keep="\t")


def harmless_json(encoded: str) -> str:
    """JSON that says the same and that a terminal shows without obeying; its own line ends stay."""
    return _HARMFUL.sub(lambda found: found[0] if found[0] in "\n\t" else _escape_json(found[0]), encoded)


def _escape(character: str) -> str:
    number = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _escape_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


@dataclass(frozen=True)
class Signs:
    """What bars, curves and cuts are drawn with. `steps` rise from low to high."""

    steps: str
    full: str
    other: str
    empty: str
    mark: str
    cut: str
    arrow: str


UNICODE = Signs(steps="▁▂▃▄▅▆▇█", full="█", other="▒", empty="░", mark="┃", cut="…", arrow="→")
ASCII = Signs(steps="_.,-~=+*#", full="#", other="+", empty=".", mark="|", cut="~", arrow="->")


def signs_of(console: Console) -> Signs:
    return UNICODE if console.encoding.lower().startswith("utf") else ASCII


def cut(text: str, width: int, signs: Signs) -> str:
    """At most `width` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + signs.cut


def survive_narrow_encodings(*streams: Any) -> None:
    """Let a terminal that is not UTF-8 show '?' for what it lacks, where Python would give up in the middle."""
    for stream in streams or (sys.stdout, sys.stderr):
        if not (stream.encoding or "utf-8").lower().startswith("utf"):
            stream.reconfigure(errors="replace")
