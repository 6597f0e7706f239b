"""What a process prints becomes lines that are safe to keep: bounded, plain text, without secrets, never a flood.

Memory is bounded whatever comes in: a line without an end holds at most `KEPT_BYTES`.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

LINE_BYTES = 8 * 1024
"""A line longer than this is cut, and says so."""
KEPT_BYTES = 16 * 1024
"""What is held of an unfinished line: a secret that begins before the cut is whole in here, so it is recognised."""
FLOOD_BYTES = 512 * 1024
FLOOD_BYTES_PER_SECOND = 64 * 1024
"""One attempt may print about 500 lines a second for ever, and 5,000 at once."""
RESUME_BYTES = 128 * 1024
"""A flood is dropped until this much may be printed again (two seconds), so that there is one notice per gap."""
LINE_COST_BYTES = 64
"""What a line costs beside its text."""
REDACTED = "[redacted]"
CUT_MARK = " … [cut]"

_ANSI = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # operating system commands: titles, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\|$)"  # device control strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|$)"  # colours, cursor
    r"|\x1b[ -/]*(?:[0-~]|$)"  # the rest
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
_SIGNED = re.compile(r"((?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId)=)[^&\s\"'<>]+", re.I)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_PLAIN_FIELDS = frozenset(
    {
        *("key", "bucket", "acl", "content-type", "success_action_status", "x-id"),
        *("x-amz-date", "x-amz-algorithm", "x-amz-expires", "x-amz-signedheaders"),
        *("response-content-type", "response-content-disposition"),
    }
)
"""Fields of a presigned form or URL that are no secret; any other field's value is taken for one."""
_SHORTEST_SECRET = 8


class Redactor:
    """Replaces secrets that it was told of, and whatever looks like a signature or a hub token. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add_form(self, fields: Mapping[str, str]) -> None:
        """The fields of a presigned POST."""
        self.add(value for name, value in fields.items() if name.lower() not in _PLAIN_FIELDS)

    def add_url(self, url: str) -> None:
        """A presigned URL: its query as a whole, and its signature wherever that turns up alone."""
        query = urlsplit(url).query
        self.add([query, *(value for name, value in parse_qsl(query) if name.lower() not in _PLAIN_FIELDS)])

    def add(self, secrets: Iterable[str | None]) -> None:
        with self._lock:
            self._secrets.update(s for s in secrets if s and len(s) >= _SHORTEST_SECRET)
            longest_first = sorted(self._secrets, key=lambda secret: (-len(secret), secret))
            self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def clean(self, text: str) -> str:
        if self._pattern is not None:
            text = self._pattern.sub(REDACTED, text)
        return _HUB_TOKEN.sub(REDACTED, _SIGNED.sub(rf"\1{REDACTED}", text))


def plain_text(text: str) -> str:
    """Without terminal sequences and control characters; tabs stay. Databases refuse NUL, browsers obey the rest."""
    return _CONTROL.sub("", _ANSI.sub("", text))


def cut_text(text: str, limit_bytes: int = LINE_BYTES) -> str:
    """At most `limit_bytes` of UTF-8, plus a mark when something was cut."""
    data = text.encode(errors="replace")
    if len(data) <= limit_bytes:
        return text
    return data[:limit_bytes].decode(errors="ignore") + CUT_MARK


class LineSplitter:
    """Bytes in, lines out. A carriage return starts the line again, so that of a progress bar its last state stays."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._starts_again = False
        self._is_cut = False

    def feed(self, data: bytes) -> Iterator[str]:
        for piece in data.splitlines(keepends=True):
            text = piece.rstrip(b"\r\n")
            if text and self._starts_again:
                self._reset()
            room = KEPT_BYTES - len(self._line)
            self._line += text[:room]
            self._is_cut |= len(text) > room
            if piece.endswith(b"\n"):
                yield self._take()
            elif piece.endswith(b"\r"):
                self._starts_again = True

    def finish(self) -> Iterator[str]:
        """What was printed without a final newline."""
        if self._line:
            yield self._take()

    def _take(self) -> str:
        text = self._line.decode(errors="replace") + (CUT_MARK if self._is_cut else "")
        self._reset()
        return text

    def _reset(self) -> None:
        self._line.clear()
        self._starts_again = False
        self._is_cut = False


class FloodGate:
    """A token bucket over bytes. `admit` is called once per line, from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = float(FLOOD_BYTES)
        self._filled_at = clock()
        self._dropped = 0

    def admit(self, text_bytes: int) -> tuple[bool, int]:
        """(whether the line may pass, how many were dropped just before it)."""
        with self._lock:
            now = self._clock()
            self._tokens = min(FLOOD_BYTES, self._tokens + (now - self._filled_at) * FLOOD_BYTES_PER_SECOND)
            self._filled_at = now
            cost = text_bytes + LINE_COST_BYTES
            if self._tokens < (RESUME_BYTES if self._dropped else cost):
                self._dropped += 1
                return False, 0
            self._tokens -= cost
            return True, self._take_dropped()

    def finish(self) -> int:
        """How many lines were dropped and not yet told of."""
        with self._lock:
            return self._take_dropped()

    def _take_dropped(self) -> int:
        dropped, self._dropped = self._dropped, 0
        return dropped
