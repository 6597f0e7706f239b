"""Commands about what was: who held the devices, who changed what."""

from itertools import islice
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from api.cli.connection import JsonOption, connect
from api.cli.output import print_table, say_bytes, say_moment, say_seconds, show, show_id
from api.client.accounts import AuditEntry
from api.client.devices import Hold, PoolHistory
from api.client.teams import AuditFilter


def history(
    hours: Annotated[int, typer.Option(help="How far back it goes.", min=1, max=168)] = 24,
    as_json: JsonOption = False,
) -> None:
    """Show what held the devices lately: which job, how long, how much of the memory."""
    with connect() as client:
        found = client.pool.history(hours=hours)
        show(found, as_json=as_json, draw=lambda console: _draw_history(console, found))


def _draw_history(console: Console, found: PoolHistory) -> None:
    columns = ("DEVICE", "JOB", "TEAM", "SINCE", "FOR ", "RESERVED ", "PEAK ")
    rows = [_hold_row(console, hold, found.until) for hold in found.data]
    print_table(console, columns, rows, none="no device was held")


def _hold_row(console: Console, hold: Hold, now: int) -> tuple[str | Text, ...]:
    return (
        hold.device_id,
        show_id(console, hold.job_id) if hold.job_id else "another team's job",
        hold.team or "-",
        say_moment(hold.since),
        say_seconds((hold.until or now) - hold.since) + ("" if hold.until else " so far"),
        say_bytes(hold.reserved_bytes),
        say_bytes(hold.peak_device_bytes),
    )


def audit(
    actor: Annotated[
        str | None, typer.Option(help="Only what this key did, by its id; scheduler for the pool itself.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only this verb: team.terms, or team for all of them.")] = None,
    since: Annotated[str | None, typer.Option(help="What was done then or later: 2026-11-01, or a moment.")] = None,
    until: Annotated[str | None, typer.Option(help="What was done before: 2026-12-01, or a moment.")] = None,
    limit: Annotated[int, typer.Option(help="The most entries.", min=1)] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show what was changed, by hand or by the pool itself, newest first."""
    given = {"actor": actor, "action": action, "since": since, "until": until}
    which = cast(AuditFilter, {name: value for name, value in given.items() if value is not None})
    with connect() as client:
        entries = client.teams.audit(**which)
        found = list(islice(entries, limit))
        columns = ("WHEN", "KEY", "WHAT", "OF", "DETAILS")
        rows = [_audit_row(entry) for entry in found]
        show(
            found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="nothing was changed")
        )


def _audit_row(entry: AuditEntry) -> tuple[str, ...]:
    return (say_moment(entry.at), entry.key_id, entry.action, entry.subject, _details(entry))


def _details(entry: AuditEntry) -> str:
    return ", ".join(
        f"{name}: {value['from']} -> {value['to']}" if isinstance(value, dict) and "to" in value else f"{name}: {value}"
        for name, value in entry.data.items()
    )
