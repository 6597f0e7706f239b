"""How `tunepool top` looks: devices as bars, below them the jobs, the busiest first, as many as the screen has lines.

What is less wanted is left out on narrow screens; nothing is wrapped, so a line of the screen is a device or a job.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.curves import say_figure, sparkline
from api.cli.follow import state_of
from api.cli.job_view import draw_progress
from api.cli.memory import Bar
from api.cli.output import SHORT_ID, STATUS_STYLES, say_age, say_bytes, say_clock, say_moment, say_part
from api.cli.plain import Signs, cut, harmless, signs_of
from api.client.devices import Device, Pool
from api.client.results import Job

ORDER = ("running", "pausing", "validating_files", "queued", "paused")
"""Whatever else there is has ended, and comes last, the newest first."""
HEAD_LINES = 4
MIN_JOB_LINES = 3
NARROW_COLUMNS, WIDE_COLUMNS, WIDEST_COLUMNS = 56, 100, 150
CURVE_COLUMNS = 16


@dataclass(frozen=True)
class JobLine:
    """`losses` are the training losses so far, of running jobs."""

    job: Job
    losses: tuple[float, ...] = ()
    tokens_per_second: float | None = None

    def as_json(self) -> dict[str, Any]:
        loss = self.losses[-1] if self.losses else None
        return {**self.job.model_dump(mode="json"), "train_loss": loss, "tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class Frame:
    """One look at the pool, at Unix second `at`; `more` when there are jobs older than those looked at."""

    url: str
    at: float
    pool: Pool
    jobs: tuple[JobLine, ...]
    more: bool = False


def draw_frame(
    console: Console,
    frame: Frame,
    *,
    height: int | None,
    trouble: str = "",
    first: int = 0,
    seconds: float | None = None,
) -> RenderableType:
    """`height` is the lines of the screen; None draws all. `first` is the first job to show."""
    jobs = sorted(frame.jobs, key=_rank)
    devices = list(frame.pool.devices)
    room = None if height is None else max(MIN_JOB_LINES, height - HEAD_LINES - 3)
    shown_devices = devices if room is None else devices[: max(1, room - MIN_JOB_LINES)]
    job_room = None if room is None else max(MIN_JOB_LINES, room - len(shown_devices))
    shown = jobs[first:] if job_room is None else jobs[first : first + job_room]
    return Group(
        _draw_head(console, frame, trouble, seconds),
        Text(),
        _title("POOL", _say_pool(devices, len(shown_devices))),
        _draw_devices(console, shown_devices),
        Text(),
        _title("JOBS", _say_jobs(frame, first, len(shown))),
        _draw_jobs(console, shown, frame.at),
    )


def _rank(line: JobLine) -> tuple[int, float, int]:
    job = line.job
    place = ORDER.index(job.status) if job.status in ORDER else len(ORDER)
    waits = job.status in {"queued", "validating_files"}
    return place, -job.priority if waits else 0, job.created_at if waits else -job.created_at


def _draw_head(console: Console, frame: Frame, trouble: str, seconds: float | None) -> Text:
    head = Text.assemble(("tunepool", "bold"), "  ", harmless(frame.url), no_wrap=True, overflow="crop")
    if seconds is None:
        return head.append(f"  {say_moment(frame.at)}", style="dim")
    head.append(f"  {say_clock(frame.at)}", style="dim")
    if trouble:
        return head.append(f"  no answer since: {harmless(trouble)}", style="red")
    return head.append(f"  every {seconds:g} s  q quits, j and k scroll", style="dim")


def _title(name: str, text: str) -> Text:
    return Text.assemble((name, "bold"), "  ", (text, "dim"), no_wrap=True, overflow="crop")


def _say_pool(devices: list[Device], shown: int) -> str:
    online = [device for device in devices if device.online]
    reserved, usable = sum(d.reserved_bytes for d in online), sum(d.usable_bytes for d in online)
    text = f"{len(online)} of {len(devices)} devices online, {say_bytes(reserved)} of {say_bytes(usable)} reserved"
    return text + (f", the first {shown} shown" if shown < len(devices) else "")


def _say_jobs(frame: Frame, first: int, shown: int) -> str:
    counts: dict[str, int] = {}
    for line in frame.jobs:
        counts[line.job.status] = counts.get(line.job.status, 0) + 1
    names = [*(name for name in ORDER if name in counts), *sorted(set(counts) - set(ORDER))]
    text = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in names) or "none yet"
    if shown < len(frame.jobs):
        text += f"; lines {first + 1} to {first + shown} of {len(frame.jobs)}"
    return text + (", and older ones" if frame.more else "")


def _table() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)


def _draw_devices(console: Console, devices: list[Device]) -> RenderableType:
    if not devices:
        return Text("no devices are known yet", style="dim")
    signs = signs_of(console)
    names = [cut(harmless(device.id), max(12, console.width // 4), signs) for device in devices]
    kinds = [cut(harmless(device.device_type), 20, signs) for device in devices]
    sizes = [say_part(device.reserved_bytes, device.usable_bytes) for device in devices]
    uses = [_say_uses(device) for device in devices]
    columns: list[list[Text]] = [[Text(name) for name in names], uses]
    if console.width >= NARROW_COLUMNS:
        columns.insert(1, [Text(size) for size in sizes])
    if console.width >= WIDE_COLUMNS:
        columns.insert(1, [Text(kind, style="dim") for kind in kinds])
    taken = sum(2 + max(text.cell_len for text in column) for column in columns)
    width = max(6, min(48, console.width - taken - 2))
    bar_at = 2 if console.width >= WIDE_COLUMNS else 1
    table = _table()
    for _ in range(len(columns) + 1):
        table.add_column(no_wrap=True)
    for index, device in enumerate(devices):
        bar = _device_bar(device, signs).draw(width, signs)
        cells = [column[index] for column in columns]
        table.add_row(*cells[:bar_at], bar, *cells[bar_at:])
    return table


def _device_bar(device: Device, signs: Signs) -> Bar:
    """Each use in turn: what it has used at most, and what is reserved for it beyond that."""
    parts: list[tuple[int, str, str]] = []
    for use in device.uses:
        used = min(use.peak_device_bytes, use.reserved_bytes)
        style = "yellow" if use.draining else ("blue" if use.job_id is None else "green")
        parts += [(used, signs.full, style), (use.reserved_bytes - used, signs.other, style)]
    return Bar(device.usable_bytes, tuple(parts))


def _say_uses(device: Device) -> Text:
    if not device.online:
        return Text("offline", style="red")
    if not device.uses:
        return Text("free", style="dim")
    ending = sum(use.draining for use in device.uses)
    count = f"{len(device.uses)} job" + ("s" if len(device.uses) > 1 else "")
    return Text(count + (f", {ending} ending" if ending else ""))


def _draw_jobs(console: Console, lines: list[JobLine], at: float) -> RenderableType:
    """A table in which the last column takes what room is left."""
    if not lines:
        return Text("no jobs yet: tunepool submit FILE.yaml", style="dim")
    columns = [column for column in COLUMNS if column.from_columns <= console.width]
    rows = [[_as_text(column.cell(_Look(line, at, console))) for column in columns] for line in lines]
    taken = sum(
        2 + max(len(column.name), *(row[index].cell_len for row in rows)) for index, column in enumerate(columns[:-1])
    )
    table = _table()
    table.show_header, table.header_style = True, "dim"
    for column in columns:
        table.add_column(column.name, no_wrap=True, justify="right" if column.is_figure else "left")
    for row in rows:
        row[-1].plain = cut(row[-1].plain, max(4, console.width - taken), signs_of(console))
        table.add_row(*row)
    return table


def _as_text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


@dataclass(frozen=True)
class _Look:
    line: JobLine
    at: float
    console: Console

    @property
    def job(self) -> Job:
        return self.line.job

    @property
    def runs(self) -> bool:
        return self.line.job.status == "running"


@dataclass(frozen=True)
class _Column:
    """`from_columns` is the width of the screen from which it is shown."""

    name: str
    cell: Callable[[_Look], str | Text]
    from_columns: int = 0
    is_figure: bool = False


def _id(look: _Look) -> str:
    """Ids differ at their ends; commands take the end alone, too."""
    job_id = harmless(look.job.id)
    return job_id if look.console.width >= WIDEST_COLUMNS else job_id[-SHORT_ID:]


def _state(look: _Look) -> Text:
    return Text(harmless(state_of(look.job)), style=STATUS_STYLES.get(look.job.status, ""))


def _bar(look: _Look) -> Text:
    width = 8 if look.console.width < WIDE_COLUMNS else 14
    return draw_progress(look.console, look.job, width) if look.runs else Text()


def _percent(look: _Look) -> str:
    progress = look.job.progress
    return f"{progress.percent:.0f} %" if look.runs and progress and progress.percent is not None else ""


def _loss(look: _Look) -> str:
    return say_figure(look.line.losses[-1]) if look.line.losses else ""


def _curve(look: _Look) -> Text:
    return Text(sparkline(look.line.losses, CURVE_COLUMNS, signs_of(look.console)), style="cyan")


def _speed(look: _Look) -> str:
    speed = look.line.tokens_per_second
    return f"{speed:,.0f}" if speed else ""


def _time(look: _Look) -> str:
    """What is left of a running job, how long another one waits, how long ago it ended."""
    job = look.job
    if look.runs:
        return say_age(job.estimated_finish - look.at) if job.estimated_finish else ""
    if job.finished_at:
        return f"{say_age(look.at - job.finished_at)} ago"
    return f"for {say_age(look.at - job.created_at)}"


def _billed(look: _Look) -> str:
    cost = look.job.cost
    return f"${cost.billed_usd_micros / 1e6:,.2f}" if cost and cost.billed_usd_micros else ""


def _model(look: _Look) -> str:
    return harmless(look.job.model)


COLUMNS = (
    _Column("JOB", _id),
    _Column("STATUS", _state),
    _Column("DONE", _bar, from_columns=60),
    _Column("", _percent, from_columns=30, is_figure=True),
    _Column("LOSS", _loss, from_columns=36, is_figure=True),
    _Column("", _curve, from_columns=WIDE_COLUMNS),
    _Column("TOK/S", _speed, from_columns=90, is_figure=True),
    _Column("TIME", _time, from_columns=50, is_figure=True),
    _Column("BILLED", _billed, from_columns=110, is_figure=True),
    _Column("MODEL", _model, from_columns=70),
)
