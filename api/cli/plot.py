"""Curves of one or several jobs in the terminal: `tunepool plot`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from api.cli.connection import JsonOption, complete_job, connect, find_job_id
from api.cli.curves import Curve, list_metrics, read_curve
from api.cli.exits import CommandError, ExitCode
from api.cli.output import make_console, print_json, print_line
from api.cli.plot_view import Line, draw_plot
from api.cli.waiting import waiting
from api.client.results import Job, MetricPoint
from api.client.tunepool import Tunepool

LOSS_METRICS = ("train_loss", "eval_loss")
"""What 'loss' means for one job; of several it is the training loss, so that lines can be told apart."""
MAX_JOBS = 8
PLAIN_COLUMNS = 100
"""Width of a plot that goes into a pipe or a file."""


class Axis(StrEnum):
    STEP = "step"
    TIME = "time"


@dataclass(frozen=True)
class Run:
    """A job and all its figures."""

    job: Job
    points: tuple[MetricPoint, ...]


def plot(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB…", help="The newest when left out.", autocompletion=complete_job),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="loss, learning_rate, grad_norm, tokens_per_second, …; may be repeated."),
    ] = None,
    x: Annotated[
        Axis, typer.Option("--x", help="Along steps, or along the time since each job's first one.")
    ] = Axis.STEP,
    log: Annotated[bool, typer.Option("--log", help="A logarithmic vertical axis.")] = False,
    smooth: Annotated[float, typer.Option(min=0, max=0.99, help="How much of its past a point keeps.")] = 0.0,
    height: Annotated[int | None, typer.Option(min=6, max=200, help="Lines of each plot.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Plot the loss of jobs, or other metrics; several jobs share one plot."""
    with connect() as client:
        runs = _read(client, jobs or ["last"])
    wanted = _choose(runs, metric or ["loss"])
    if as_json:
        print_json([_as_json(run, wanted) for run in runs])
        return
    console = make_console()
    if not console.is_terminal:
        console.width = PLAIN_COLUMNS
    for index, names in enumerate(wanted):
        if index:
            console.print()
        lines = _lines(runs, names, smooth)
        if not lines:
            print_line(console, f"no figures of {' and '.join(names)} yet", style="dim")
            continue
        draw_plot(console, lines, title=_title(names, smooth), by_time=x is Axis.TIME, log=log, height=height)


def _read(client: Tunepool, asked: list[str]) -> list[Run]:
    ids = list(dict.fromkeys(find_job_id(client, job) for job in asked))
    if len(ids) > MAX_JOBS:
        raise CommandError(f"{len(ids)} jobs are too many to tell apart; at most {MAX_JOBS}")
    with waiting("reading metrics"):
        return [Run(client.jobs.get(job_id), tuple(client.jobs.metrics(job_id))) for job_id in ids]


def _choose(runs: list[Run], asked: list[str]) -> list[tuple[str, ...]]:
    """The metrics of each plot. Raises CommandError for one that no job has; 'loss' is always known."""
    known = sorted({name for run in runs for name in list_metrics(run.points)})
    for name in asked:
        if name != "loss" and known and name not in known:
            raise CommandError(
                f"no job here has a metric {name}", ExitCode.NOT_FOUND, hint=f"there are: loss, {', '.join(known)}"
            )
    losses = LOSS_METRICS if len(runs) == 1 else LOSS_METRICS[:1]
    return [losses if name == "loss" else (name,) for name in dict.fromkeys(asked)]


def _lines(runs: list[Run], names: tuple[str, ...], smooth: float) -> list[Line]:
    """One line for each job and metric that has figures, named by what differs."""
    found = []
    for run in runs:
        for name in names:
            curve = read_curve(run.points, name)
            if curve:
                label = name.replace("_", " ") if len(runs) == 1 else _label(run.job)
                found.append(Line(label, curve if name == "eval_loss" else smoothed(curve, smooth)))
    return found


def _label(job: Job) -> str:
    return f"{job.id[-8:]} {job.suffix or ''}".rstrip()


def _title(names: tuple[str, ...], smooth: float) -> str:
    name = "loss" if names == LOSS_METRICS else names[0].replace("_", " ")
    return f"{name}, smoothed by {smooth:g}," if smooth else name


def smoothed(curve: Curve, keep: float) -> Curve:
    """An exponential average that starts without a bias towards zero (Kingma and Ba 2015, section 3)."""
    mean, weight, values = 0.0, 0.0, []
    for value in curve.values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        values.append(mean / weight)
    return Curve(curve.steps, curve.seconds, tuple(values))


def _as_json(run: Run, wanted: list[tuple[str, ...]]) -> dict[str, object]:
    curves = {name: read_curve(run.points, name) for names in wanted for name in names}
    return {
        "job": run.job.id,
        "metrics": {
            name: {"steps": curve.steps, "seconds": curve.seconds, "values": curve.values}
            for name, curve in curves.items()
        },
    }
