"""Single keys from the terminal while a screen is drawn; the terminal is as before afterwards."""

import os
import select
import sys
import termios
import time
import tty
from typing import Any

ARROWS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
LONGEST_KEY_BYTES = 8


class Keyboard:
    """A context in which keys come at once and are not echoed. Without a terminal on standard input there are none."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._before: list[Any] = []

    def __enter__(self) -> "Keyboard":
        if sys.stdin is not None and sys.stdin.isatty():
            self._file = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """The next key, such as 'q' or 'up'; '' when none came in this time."""
        if self._file is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._file], [], [], seconds)
        if not ready:
            return ""
        pressed = os.read(self._file, LONGEST_KEY_BYTES)
        return ARROWS.get(pressed, pressed.decode(errors="ignore")[:1])
