"""The command line at a real terminal: a pseudo-terminal of a given size, read as a person would see it."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

DEADLINE_SECONDS = 60.0
CHUNK_BYTES = 65_536
_SEQUENCES = re.compile(r"\x1b\][^\x07]*\x07|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]")
ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """One run of `tunepool`. `seen` is everything that it wrote, sequences and all."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli.main", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**inherited, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(env or {})},
            start_new_session=True,
            cwd=folder,
        )
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    @property
    def text(self) -> str:
        """What was written, without sequences."""
        return _SEQUENCES.sub("", self.seen).replace("\r\n", "\n")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, words: str, *, after: int = 0) -> int:
        """Read until the words were written, beyond so many characters of the text; returns how long it is then."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while words not in self.text[after:]:
            assert time.monotonic() < deadline, f"{words!r} did not come; there is: {self.text[-2000:]}"
            assert self._read() or self.process.poll() is None, f"it ended without {words!r}: {self.text[-2000:]}"
        return len(self.text)

    def end(self) -> int:
        """Read until it ends; the exit code."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None or self._read():
            assert time.monotonic() < deadline, f"it did not end; there is: {self.text[-2000:]}"
            self._read()
        return self.process.returncode

    def is_restored(self) -> bool:
        """Whether the terminal is set as it was found: keys echo again, and come by lines."""
        return termios.tcgetattr(self._slave) == self.before

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 0.05)
        if not ready:
            return False
        self.seen += self._decoder.decode(os.read(self._master, CHUNK_BYTES))
        return True
