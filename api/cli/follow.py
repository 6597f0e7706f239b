"""Following a job: a live bar with loss, speed and time left at a terminal, plain lines anywhere else.

The job is looked at once a second; a control plane that restarts meanwhile is waited for.
"""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from api.cli.output import print_line, say_clock, say_seconds
from api.cli.plain import harmless, harmless_line
from api.client.errors import ConnectionFailedError, ServerError
from api.client.results import Event, Job, MetricPoint
from api.client.tunepool import Tunepool

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0
PLAIN_LINE_SECONDS = 10.0
WIDE_COLUMNS = 110
LONGEST_STATE = "validating_files"


@dataclass
class Outlook:
    """What the metrics of a job say by now. Speeds are of the newest attempt."""

    train_loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    _attempt: int = 0
    _first: tuple[int, float] | None = None
    steps_seen: dict[int, float] = field(default_factory=dict)

    def add(self, point: MetricPoint) -> None:
        if point.attempt != self._attempt:
            self._attempt, self._first = point.attempt, None
        values = point.values
        self.eval_loss = values.get("eval_loss", self.eval_loss)
        self.tokens_per_second = values.get("tokens_per_second", self.tokens_per_second)
        if "train_loss" not in values:
            return
        self.train_loss = values["train_loss"]
        self.steps_seen[point.step] = self.train_loss
        if self._first is None:
            self._first = (point.step, point.at)
        elif point.step > self._first[0]:
            self.seconds_per_step = (point.at - self._first[1]) / (point.step - self._first[0])

    def seconds_left(self, job: Job) -> float | None:
        """Until the last step, at the speed so far."""
        progress = job.progress
        if self.seconds_per_step is None or progress is None or progress.total_steps is None:
            return None
        return self.seconds_per_step * max(0, progress.total_steps - progress.step)


class View(Protocol):
    def event(self, event: Event) -> None: ...

    def update(self, job: Job, outlook: Outlook) -> None: ...

    def trouble(self, error: Exception) -> None: ...

    def close(self) -> None: ...


class SilentView:
    """For programs, which read the result only."""

    def event(self, event: Event) -> None: ...

    def update(self, job: Job, outlook: Outlook) -> None: ...

    def trouble(self, error: Exception) -> None: ...

    def close(self) -> None: ...


class LineView:
    """One line for each event, and one for the progress when it changed, at most every ten seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last: tuple[object, ...] = ()
        self._last_at = float("-inf")

    def event(self, event: Event) -> None:
        print_line(self._console, f"{say_clock(event.created_at)}  {event.level:5}  {harmless_line(event.message)}")

    def update(self, job: Job, outlook: Outlook) -> None:
        step = job.progress.step if job.progress else 0
        total = job.progress.total_steps if job.progress else None
        now = self._clock()
        state = (job.status, job.phase, step)
        ended = total is not None and step == total
        if state == self._last or not step or (now - self._last_at < PLAIN_LINE_SECONDS and not ended):
            return
        self._last, self._last_at = state, now
        print_line(self._console, f"{say_clock(time.time())}  {describe(job, outlook)}")

    def trouble(self, error: Exception) -> None:
        print_line(self._console, f"{say_clock(time.time())}  waiting for the pool: {error}")

    def close(self) -> None: ...


class BarView:
    """Events above, and one line at the bottom that is redrawn."""

    def __init__(self, console: Console) -> None:
        bar_columns = 28 if console.width >= WIDE_COLUMNS else 12
        self._room = console.width - bar_columns - len(LONGEST_STATE) - len(" 100%   ")
        self._progress = Progress(
            TextColumn("{task.fields[state]}", style="cyan", markup=False),
            BarColumn(bar_width=bar_columns),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
        )
        self._task = self._progress.add_task("job", total=None, state="", figures="")
        self._progress.start()

    def event(self, event: Event) -> None:
        style = {"warn": "yellow", "error": "red"}.get(event.level, "")
        line = Text.assemble((f"{say_clock(event.created_at)}  ", "dim"), (harmless_line(event.message), style))
        self._progress.console.print(line)

    def update(self, job: Job, outlook: Outlook) -> None:
        progress = job.progress
        self._progress.update(
            self._task,
            total=progress.total_steps if progress else None,
            completed=progress.step if progress else 0,
            state=state_of(job),
            figures=choose_figures(figures_of(job, outlook), self._room),
        )

    def trouble(self, error: Exception) -> None:
        self._progress.update(self._task, state="waiting for the pool", figures=harmless(str(error)))

    def close(self) -> None:
        self._progress.stop()


def make_view(console: Console) -> View:
    return BarView(console) if console.is_terminal else LineView(console)


def state_of(job: Job) -> str:
    """The finer stage while the job runs, its status otherwise."""
    return job.phase.replace("_", " ") if job.status == "running" and job.phase else job.status


def figures_of(job: Job, outlook: Outlook) -> list[str]:
    found = []
    if job.progress and job.progress.total_steps:
        found.append(f"step {job.progress.step}/{job.progress.total_steps}")
    if outlook.train_loss is not None:
        found.append(f"loss {outlook.train_loss:.3f}")
    if outlook.eval_loss is not None:
        found.append(f"eval {outlook.eval_loss:.3f}")
    if outlook.tokens_per_second is not None:
        found.append(f"{outlook.tokens_per_second:,.0f} tok/s")
    left = outlook.seconds_left(job)
    if left and not job.is_final:
        found.append(f"ETA {say_seconds(left)}")
    return found


def choose_figures(figures: list[str], room: int) -> str:
    """What fits of them into so many columns; the speed goes first, then the validation loss."""
    kept = list(figures)
    for expendable in ("tok/s", "eval", "loss", "ETA"):
        if len("  ".join(kept)) <= room:
            break
        kept = [figure for figure in kept if expendable not in figure]
    return "  ".join(kept)


def describe(job: Job, outlook: Outlook) -> str:
    """The progress in one line."""
    return "  ".join([state_of(job), *figures_of(job, outlook)])


class Interrupted:
    """Ctrl-C raises as ever, and is remembered: a library may swallow what is raised in the middle of it."""

    def __init__(self) -> None:
        self._pressed = False
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():  # the only one that Python tells of signals
            self._before = signal.signal(signal.SIGINT, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        signal.default_int_handler(number, frame)

    def check(self) -> None:
        """Raises KeyboardInterrupt when Ctrl-C was pressed and nothing came of it."""
        if self._pressed:
            raise KeyboardInterrupt

    def close(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def follow_job(client: Tunepool, job_id: str, view: View, *, poll_seconds: float = POLL_SECONDS) -> tuple[Job, Outlook]:
    """Show a job until it is over; returns its end. The view is closed in any case.

    Raises ConnectionFailedError or ServerError when the pool stays away for longer than the patience.
    """
    outlook = Outlook()
    last_event: str | None = None
    last_metric: str | None = None
    last_heard = time.monotonic()
    interrupted = Interrupted()
    try:
        while True:
            try:
                job = client.jobs.get(job_id)
                for event in client.jobs.events(job_id, after=last_event):
                    last_event = event.id
                    if event.type != "metrics":  # figures are in the bar
                        view.event(event)
                for point in client.jobs.metrics(job_id, after=last_metric):
                    last_metric = point.id
                    outlook.add(point)
                view.update(job, outlook)
                if job.is_final:
                    return job, outlook
                last_heard = time.monotonic()
            except (ConnectionFailedError, ServerError) as error:
                if time.monotonic() - last_heard > PATIENCE_SECONDS:
                    raise
                view.trouble(error)
            interrupted.check()
            time.sleep(poll_seconds)
    finally:
        interrupted.close()
        view.close()
