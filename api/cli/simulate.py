"""What would have been on another pool: `tunepool simulate`, on the pool's own past, a trace file, or a made-up mix."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from api.cli.connection import JsonOption, connect
from api.cli.curves import Curve
from api.cli.exits import CommandError
from api.cli.output import make_console, print_json, print_line, print_table
from api.cli.plot_view import Line, draw_plot
from orchestrator.simulation import history
from orchestrator.simulation.openb import TraceError
from orchestrator.simulation.pool_files import PoolFile, PoolFileError, change_pool, read_pool
from orchestrator.simulation.trace_files import SYNTHETIC, read_workload, synthetic
from orchestrator.simulation.whatif import Outcome, TeamOutcome, simulate
from orchestrator.simulation.workload import SimulatedJob

HISTORY = "history"
USUAL_LOAD, SEED = 0.75, 42
COLUMNS = ("POOL", "TEAM", "JOBS ", "MEAN WAIT ", "95 % WITHIN ", "WORST ", "DEVICE HOURS ")


def simulate_pool(
    *,
    pool: Annotated[Path, typer.Option(help="The pool, its teams and rules, as YAML.", exists=True, dir_okay=False)],
    trace: Annotated[
        str, typer.Option(help="`history`, `synthetic[:LOAD]`, or a file: openb or Philly CSV, JSON lines.")
    ],
    change: Annotated[
        list[str] | None, typer.Option(help="What differs in the second pool, as `devices.g24.count=+4`; repeatable.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Another pool file to compare with.", exists=True)] = None,
    days: Annotated[int, typer.Option(help="How far back `history` goes.", min=1, max=365)] = 30,
    jobs: Annotated[int, typer.Option(help="How many jobs `synthetic` has.", min=1, max=100_000)] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Run a workload through the scheduler on a virtual clock, and compare pools, teams and rules."""
    try:
        pools = _pools(pool, change or [], against)
        if trace == HISTORY:
            workload = _history(days)
        elif trace.partition(":")[0] == SYNTHETIC:
            workload = synthetic(pools[0][1].devices, count=jobs, load=_load(trace), seed=SEED)
        else:
            workload = read_workload(Path(trace), pools[0][1].devices)
        outcomes = [simulate(name, each, workload) for name, each in pools]
    except (PoolFileError, TraceError, OSError) as error:
        raise CommandError(str(error)) from error
    if as_json:
        print_json([asdict(each) for each in outcomes])
    else:
        draw_outcomes(make_console(), outcomes)


def _pools(path: Path, changes: list[str], against: Path | None) -> list[tuple[str, PoolFile]]:
    first = read_pool(path)
    found = [(path.stem, first)]
    if changes:
        found.append((", ".join(changes), change_pool(first, changes)))
    if against is not None:
        found.append((against.stem, read_pool(against)))
    return found


def _load(trace: str) -> float:
    """The share of the pool's memory that `synthetic:LOAD` asks for."""
    _, is_given, text = trace.partition(":")
    try:
        load = float(text) if is_given else USUAL_LOAD
    except ValueError as error:
        raise CommandError(f"{text!r} in {trace!r} is not a load such as 0.75") from error
    if not 0 < load <= 100:
        raise CommandError(f"a load of {load:g} cannot be simulated")
    return load


def _history(days: int) -> tuple[SimulatedJob, ...]:
    with connect() as client:
        return history.as_workload(history.parse_past(client.simulation.history(days=days)))


def draw_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """A table of waits by team, a sentence for each pool, and at a terminal the waiting jobs over time."""
    rows = [_row(each.name, team) for each in outcomes for team in (each.all, *each.teams)]
    print_table(console, COLUMNS, rows, none="no job ran")
    for each in outcomes:
        left = f"; {each.impossible} jobs fit on no device and were left out" if each.impossible else ""
        unfinished = f"; {each.unfinished} jobs did not end" if each.unfinished else ""
        print_line(
            console,
            f"{each.name}: {each.used_percent:.0f} % of the devices in use, {each.preemptions} preemptions that cost "
            f"{each.lost_device_hours:.1f} device hours{left}{unfinished}",
        )
    lines = [_waiting_line(outcome) for outcome in outcomes if outcome.waiting_by_hour]
    if console.is_terminal and lines:
        draw_plot(console, lines, title="jobs that wait", by_time=True, log=False, height=None)


def _row(name: str, team: TeamOutcome) -> tuple[str, ...]:
    waits = (team.mean_wait_hours, team.p95_wait_hours, team.worst_wait_hours)
    return (name, team.team, str(team.jobs), *(say_hours(each) for each in waits), f"{team.device_hours:.1f}")


def say_hours(hours: float) -> str:
    """Minutes below an hour and a half, hours above."""
    return f"{60 * hours:.1f} min" if hours < 1.5 else f"{hours:.1f} h"


def _waiting_line(outcome: Outcome) -> Line:
    """How many jobs wait, by the hour from the first arrival on."""
    hours = tuple(range(len(outcome.waiting_by_hour)))
    curve = Curve(
        steps=hours,
        seconds=tuple(3600.0 * hour for hour in hours),
        values=tuple(float(number) for number in outcome.waiting_by_hour),
    )
    return Line(outcome.name, curve)
