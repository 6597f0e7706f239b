"""The live picture of the pool: `tunepool top`.

Looking and drawing are apart: `Watcher` asks the API, `top_view` draws what it found. At a terminal the screen is
redrawn until q or Ctrl-C; anywhere else, or with --once, it is drawn once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from api.cli.connection import JsonOption, connect
from api.cli.follow import Interrupted
from api.cli.keyboard import Keyboard
from api.cli.output import make_console, print_json
from api.cli.top_view import Frame, JobLine, draw_frame
from api.cli.waiting import waiting
from api.client.devices import Pool
from api.client.errors import ConnectionFailedError, NotFoundError, RateLimitedError, ServerError
from api.client.results import Job
from api.client.tunepool import Tunepool

JOBS_PER_LOOK = 100
"""The newest jobs that are looked at; what runs on a device is found however old it is."""
CURVES_PER_LOOK = 20
"""Running jobs whose metrics are asked for."""
LOSSES_KEPT = 2000
PLAIN_COLUMNS = 160
"""Width of what goes into a pipe or a file."""


@dataclass
class _Seen:
    """What is remembered of a running job between two looks."""

    after: str | None = None
    losses: list[float] = field(default_factory=list)
    tokens_per_second: float | None = None


class Watcher:
    """Asks for the pool and its jobs again and again; metrics only for what is new in them."""

    def __init__(self, client: Tunepool) -> None:
        self._client = client
        self._seen: dict[str, _Seen] = {}

    def look(self) -> Frame:
        """One round of questions. Raises ClientError."""
        pool = self._client.pool.get()
        page = self._client.jobs.list(limit=JOBS_PER_LOOK)
        jobs = self._with_running(pool, page.data)
        running = [job.id for job in jobs if job.status == "running"][:CURVES_PER_LOOK]
        self._seen = {job_id: self._read_metrics(job_id) for job_id in running}
        lines = tuple(self._line(job) for job in jobs)
        return Frame(url=self._client.base_url, at=time.time(), pool=pool, jobs=lines, more=page.has_more)

    def _with_running(self, pool: Pool, newest: tuple[Job, ...]) -> list[Job]:
        """The newest jobs, and those on devices that are older."""
        known = {job.id for job in newest}
        held = dict.fromkeys(use.job_id for device in pool.devices for use in device.uses if use.job_id)
        older = []
        for job_id in held:
            if job_id not in known:
                try:
                    older.append(self._client.jobs.get(job_id))
                except NotFoundError:  # gone between the two questions, or another team's
                    continue
        return [*newest, *older]

    def _read_metrics(self, job_id: str) -> _Seen:
        seen = self._seen.get(job_id) or _Seen()
        for point in self._client.jobs.metrics(job_id, after=seen.after):
            seen.after = point.id
            seen.tokens_per_second = point.values.get("tokens_per_second", seen.tokens_per_second)
            if "train_loss" in point.values:
                seen.losses.append(point.values["train_loss"])
        del seen.losses[:-LOSSES_KEPT]
        return seen

    def _line(self, job: Job) -> JobLine:
        seen = self._seen.get(job.id) or _Seen()
        return JobLine(job, tuple(seen.losses), seen.tokens_per_second)


def top(
    once: Annotated[bool, typer.Option("--once", help="Draw it once and end.")] = False,
    seconds: Annotated[float, typer.Option("--interval", min=0.5, max=3600, help="Seconds between two looks.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Watch the pool: what each device holds, what runs, waits and ended lately. q or Ctrl-C ends the watching."""
    console = make_console()
    with connect() as client:
        watcher = Watcher(client)
        if as_json:
            frame = watcher.look()
            print_json({"pool": frame.pool.model_dump(mode="json"), "jobs": [line.as_json() for line in frame.jobs]})
        elif once or not console.is_terminal:
            if not console.is_terminal:
                console.width = PLAIN_COLUMNS
            console.print(draw_frame(console, watcher.look(), height=None))
        else:
            watch(console, watcher.look, seconds=seconds)


def watch(console: Console, look: Callable[[], Frame], *, seconds: float) -> None:
    """Redraw until a key or Ctrl-C ends it. A pool that does not answer for a while is said so, and waited for.

    The first look's error is raised: there is nothing to show then.
    """
    with waiting("asking the pool"):
        frame, trouble, first_line = look(), "", 0
    interrupted = Interrupted()
    try:
        with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                drawn = draw_frame(
                    console, frame, height=console.height, trouble=trouble, first=first_line, seconds=seconds
                )
                live.update(drawn, refresh=True)
                key = keyboard.wait(seconds)
                interrupted.check()
                if key in {"q", "Q", "\x1b"}:
                    return
                if key:
                    first_line = scroll(key, first_line, lines=len(frame.jobs))
                    continue
                frame, trouble = _look_again(look, frame)
    except KeyboardInterrupt:
        return
    finally:
        interrupted.close()


def scroll(key: str, first: int, *, lines: int) -> int:
    """The first job to show after a key: j and k or the arrows move by one, space and b by ten, g to the top."""
    step = {"j": 1, "down": 1, "k": -1, "up": -1, " ": 10, "b": -10}.get(key, 0)
    return 0 if key == "g" else max(0, min(first + step, lines - 1))


def _look_again(look: Callable[[], Frame], last: Frame) -> tuple[Frame, str]:
    """The next frame, or the last one with what went wrong. Raises ClientError for what waiting will not mend."""
    try:
        return look(), ""
    except (ConnectionFailedError, RateLimitedError, ServerError) as error:
        return last, str(error)
