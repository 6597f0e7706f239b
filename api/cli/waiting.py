"""A line on standard error for whatever takes longer than two seconds: a bar when its size is known, else a clock.

Only at a terminal; into a pipe or a log nothing is written. The line is gone when the work is done.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from api.cli.output import make_console, say_bytes, say_seconds
from api.cli.plain import UNICODE, cut, harmless, signs_of

PATIENCE_SECONDS = 2.0
NARROW_COLUMNS = 60
"""Below this the bar is left out, and its figures are kept."""

OnProgress = Callable[[int, int], None]


class _Figures(ProgressColumn):
    """'12.1 of 45.0 MiB  3.2 MiB/s  10s left', or how long it takes already."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(say_seconds(round(task.elapsed or 0)), style="dim")
        parts = [f"{say_bytes(int(task.completed))} of {say_bytes(int(task.total))}"]
        if task.speed:
            parts.append(f"{say_bytes(int(task.speed))}/s")
        if task.time_remaining:
            parts.append(f"{say_seconds(task.time_remaining)} left")
        return Text("  ".join(parts), style="dim")


class _What(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description)


class Waiting:
    """Shown from `patience_seconds` on until it is closed. Called with bytes done and bytes in all, from any thread."""

    def __init__(self, what: str, console: Console, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        signs = signs_of(console)
        text = cut(harmless(what), max(16, console.width // 2), signs)
        bar = [] if console.width < NARROW_COLUMNS else [BarColumn(bar_width=20)]
        spinner = SpinnerColumn("dots" if signs is UNICODE else "line")
        self._progress = Progress(spinner, _What(), *bar, _Figures(), console=console, transient=True)
        self._task = self._progress.add_task(text, total=None)
        self._lock = threading.Lock()
        self._closed = False
        self._timer = threading.Timer(patience_seconds, self._appear)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            self._progress.stop()

    def _appear(self) -> None:
        with self._lock:
            if not self._closed:
                self._progress.start()


@contextmanager
def waiting(
    what: str, *, console: Console | None = None, patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[OnProgress]:
    """Tell a person at a terminal what is waited for; what is yielded may be called with bytes done and in all."""
    console = console or make_console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    line = Waiting(what, console, patience_seconds=patience_seconds)
    try:
        yield line
    finally:
        line.close()
