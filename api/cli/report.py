"""The command about usage and cost."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from api.cli.connection import JsonOption, connect
from api.cli.exits import CommandError
from api.cli.output import make_console, print_line, print_table, say_seconds, say_usd, show
from api.client.usage import UsageFigures, UsageSums

FIGURES = ("BILLED ", "LOST ", "USEFUL ", "FAILED ", "PREEMPTED ")
"""Dollars, and times of whole devices."""


def report(
    by: Annotated[
        str,
        typer.Option(
            metavar="team,day", help="Of team, user, device, device_type, model and day, with commas between."
        ),
    ] = "team",
    since: Annotated[str | None, typer.Option(help="What began then or later: 2026-11-01, or a moment.")] = None,
    until: Annotated[str | None, typer.Option(help="What began before: 2026-12-01, or a moment.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the groups as CSV.")] = None,
    focus: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every ledger entry as FOCUS 1.2.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show usage and cost: what was billed, and device time, the useful apart from the wasted."""
    groups = [name.strip() for name in by.split(",") if name.strip()]
    with connect() as client:
        for kind, path in (("csv", csv), ("focus", focus)):
            if path is not None:
                _require_folder(path)
                client.usage.download(path, kind=kind, group_by=groups, since=since, until=until)
                make_console(stderr=True).print(f"wrote {path}", style="dim")
        if csv is None and focus is None:
            found = client.usage.get(group_by=groups, since=since, until=until)
            show(found, as_json=as_json, draw=lambda console: _draw(console, found))


def _require_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise CommandError(f"there is no folder {path.parent}")


def _draw(console: Console, found: UsageSums) -> None:
    names = ["user_name" if name == "user" else name for name in found.group_by]
    tells_idle = any(row.idle_device_seconds is not None for row in found.data)
    rows = [(*(str(getattr(row, name) or "-") for name in names), *_say(row, tells_idle)) for row in found.data]
    heads = [name.replace("_name", "").replace("_", " ").upper() for name in names]
    columns = (*heads, *FIGURES, *(["IDLE "] if tells_idle else []))
    print_table(console, columns, rows, none="nothing was used")
    billed, lost = say_usd(found.total.billed_usd_micros), say_usd(found.total.lost_usd_micros)
    idle = found.total.idle_device_seconds
    idled = "" if idle is None else f"; idle: {say_seconds(idle)}"
    print_line(console, f"billed: {billed}; lost, charged to nobody: {lost}{idled}", style="bold")


def _say(figures: UsageFigures, tells_idle: bool) -> tuple[str, ...]:
    idle = [say_seconds(figures.idle_device_seconds or 0)] if tells_idle else []
    return (
        say_usd(figures.billed_usd_micros),
        say_usd(figures.lost_usd_micros),
        say_seconds(figures.useful_device_seconds),
        say_seconds(figures.failed_device_seconds),
        say_seconds(figures.preempted_device_seconds),
        *idle,
    )
