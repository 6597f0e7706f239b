"""How one job is shown: its facts, its losses as lines of text, its memory as bars."""

import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.curves import Curve, read_curve, say_figure, sparkline
from api.cli.memory import Bar, draw_memory
from api.cli.output import print_facts, print_line, say_bytes, say_moment, say_seconds, say_usd, status_text
from api.cli.plain import signs_of
from api.cli.waiting import waiting
from api.client.devices import Device
from api.client.results import Attempt, Job, MetricPoint
from api.client.tunepool import Tunepool

CURVES = (
    ("loss", "train_loss", "cyan"),
    ("validation loss", "eval_loss", "magenta"),
    ("tokens/s", "tokens_per_second", "dim"),
)
MAX_CURVE_COLUMNS = 60
PROGRESS_COLUMNS = 24


@dataclass(frozen=True)
class JobView:
    """A job with what is shown beside it. `device` is that of the newest attempt, if the pool still has it."""

    job: Job
    attempts: tuple[Attempt, ...]
    points: tuple[MetricPoint, ...]
    device: Device | None


def load_job_view(client: Tunepool, job: Job) -> JobView:
    attempts = client.jobs.attempts(job.id)
    if not attempts:
        return JobView(job, (), (), None)
    with waiting("reading metrics"):
        devices = {device.id: device for device in client.pool.get().devices}
        points = tuple(client.jobs.metrics(job.id))
    return JobView(job, attempts, points, devices.get(attempts[-1].device_id))


def draw_job(console: Console, view: JobView) -> None:
    _draw_facts(console, view.job, view.attempts)
    _draw_curves(console, view.points)
    draw_memory(console, view.job, view.attempts[-1] if view.attempts else None, view.device)


def _draw_facts(console: Console, job: Job, attempts: tuple[Attempt, ...]) -> None:
    cost = job.cost
    ran = attempts[-1] if attempts else None
    took = (job.finished_at - job.started_at) if job.finished_at and job.started_at else None
    error = Text(f"{job.error.message} ({job.error.code})", style="red") if job.error else None
    hint = ran.failure.hint if ran and ran.failure and job.status == "failed" else None
    lost = f"{say_usd(cost.lost_usd_micros)}, charged to nobody" if cost and cost.lost_usd_micros else None
    print_facts(
        console,
        [
            ("job", job.id),
            ("status", status_text(f"{job.status}" + (f" ({job.phase})" if job.phase and not job.is_final else ""))),
            ("model", job.model),
            ("progress", _say_progress(console, job)),
            ("error", error),
            ("hint", hint),
            ("warnings", "; ".join(job.warnings)),
            ("team", job.team),
            ("created", say_moment(job.created_at)),
            ("ran for", say_seconds(took)),
            ("attempts", str(len(attempts)) if len(attempts) > 1 else None),
            ("device", ", ".join(ran.device_ids or (ran.device_id,)) if ran else None),
            ("memory", _say_memory(ran) if ran else None),
            ("billed", say_usd(cost.billed_usd_micros) if cost else None),
            ("lost", lost),
            ("adapter", job.adapter_id),
            ("name", job.fine_tuned_model),
        ],
    )


def _say_progress(console: Console, job: Job) -> Text | None:
    """'27 of 63 steps', while the job runs with a bar and the time left."""
    progress = job.progress
    if progress is None or not progress.total_steps:
        return None
    text = Text(f"{progress.step} of {progress.total_steps} steps")
    if job.status != "running":
        return text
    bar = draw_progress(console, job, min(PROGRESS_COLUMNS, console.width // 4))
    left = job.estimated_finish - time.time() if job.estimated_finish else 0
    return Text.assemble(bar, "  ", text, f", {say_seconds(left)} left" if left > 0 else "")


def draw_progress(console: Console, job: Job, width: int) -> Text:
    """A bar of the job's steps."""
    step, total = (job.progress.step, job.progress.total_steps or 0) if job.progress else (0, 0)
    signs = signs_of(console)
    return Bar(max(1, total), ((step, signs.full, "cyan"),)).draw(width, signs)


def _say_memory(attempt: Attempt) -> str:
    peak = f", peak {say_bytes(attempt.peak_device_bytes)}" if attempt.peak_device_bytes else ""
    of_each = f" on each of {len(attempt.device_ids)} devices" if len(attempt.device_ids) > 1 else ""
    return f"{say_bytes(attempt.reserved_bytes)} reserved{of_each}{peak}"


def _draw_curves(console: Console, points: tuple[MetricPoint, ...]) -> None:
    curves = [(name, curve, style) for name, field, style in CURVES if (curve := read_curve(points, field))]
    if not curves:
        return
    signs = signs_of(console)
    width = max(8, min(MAX_CURVE_COLUMNS, console.width - 49))
    print_line(console, "\ntraining", style="bold")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, curve, style in curves:
        figures = _say_speeds(curve) if name == "tokens/s" else _say_losses(curve, signs.arrow)
        table.add_row(name, Text(sparkline(curve.values, width, signs), style=style), figures)
    console.print(table)


def _say_losses(curve: Curve, arrow: str) -> str:
    first, last = say_figure(curve.values[0]), say_figure(curve.values[-1])
    if len(curve.values) == 1:
        return last
    low = min(curve.values)
    return f"{first} {arrow} {last}" + (f", lowest {say_figure(low)}" if low < curve.values[-1] else "")


def _say_speeds(curve: Curve) -> str:
    return f"{curve.values[-1]:,.0f}, on average {sum(curve.values) / len(curve.values):,.0f}"
