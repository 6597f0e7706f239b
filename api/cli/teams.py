"""Commands about teams and API keys."""

from typing import Annotated, Any

import typer
from rich.console import Console

from api.cli.connection import JsonOption, connect
from api.cli.curves import sparkline
from api.cli.exits import CommandError
from api.cli.output import print_facts, print_line, print_table, say_moment, show
from api.cli.plain import signs_of
from api.client.accounts import Key, Shares, Team

keys_app = typer.Typer(help="API keys: list, create, revoke.")
teams_app = typer.Typer(help="Teams: list, create, set their terms.")
NONE = "none"
"""Takes a ceiling or a budget away."""

SECONDS_PER_DAY = 86_400
CURVE_COLUMNS = 24


@keys_app.callback(invoke_without_command=True)
def keys_default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_keys(as_json=as_json)


@keys_app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List keys; what is shown of a key is too short to use it."""
    with connect() as client:
        found = client.keys.list()
        rows = [(k.id, k.name, k.role, f"{k.prefix}…", _state(k), say_moment(k.last_used_at)) for k in found]
        columns = ("KEY", "NAME", "ROLE", "BEGINS WITH", "STATE", "LAST USED")
        show(found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="no keys yet"))


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    role: Annotated[str, typer.Option(help="viewer, member or admin.")] = "member",
    team: Annotated[str | None, typer.Option(help="A team's name; your own when left out.")] = None,
    expires_days: Annotated[int | None, typer.Option("--expires-days", min=1, help="Days until it expires.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it; this is the only time that it is shown."""
    with connect() as client:
        seconds = expires_days * SECONDS_PER_DAY if expires_days else None
        made = client.keys.create(name=name, role=role, team=team, expires_in_seconds=seconds)
        show(made, as_json=as_json, draw=lambda console: _draw_new(console, made))


@keys_app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key's id.")], as_json: JsonOption = False
) -> None:
    """Make a key useless, at once."""
    with connect() as client:
        done = client.keys.revoke(key)
        show(done, as_json=as_json, draw=lambda console: print_line(console, f"{done.id}  revoked"))


@teams_app.callback(invoke_without_command=True)
def teams_default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_teams(as_json=as_json)


@teams_app.command("list")
def list_teams(as_json: JsonOption = False) -> None:
    """List teams: what each was promised, uses now, and has left of its budget."""
    with connect() as client:
        found = client.teams.list()
        rows = [_team_row(team) for team in found]
        columns = ("TEAM", "GUARANTEE ", "CEILING ", "WEIGHT ", "RUNNING ", "BUDGET ", "LEFT ", "ENDS")
        show(found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="no teams yet"))


@teams_app.command("create")
def create_team(name: Annotated[str, typer.Argument(metavar="NAME")], as_json: JsonOption = False) -> None:
    """Make a team."""
    with connect() as client:
        made = client.teams.create(name=name)
        show(made, as_json=as_json, draw=lambda console: print_line(console, f"{made.id}  {made.name}"))


@teams_app.command("shares")
def show_shares(
    days: Annotated[int, typer.Option(min=1, max=31, help="How far back it goes.")] = 7, as_json: JsonOption = False
) -> None:
    """Show what teams held of the pool lately, against what they are guaranteed, in devices."""
    with connect() as client:
        found = client.teams.shares(days=days)
        show(found, as_json=as_json, draw=lambda console: _draw_shares(console, found))


def _draw_shares(console: Console, found: Shares) -> None:
    signs = signs_of(console)
    rows = [
        (
            share.name,
            f"{share.guarantees[-1] if share.guarantees else 0:g}",
            f"{sum(share.devices) / max(len(share.devices), 1):.2f}",
            f"{max(share.devices, default=0):.2f}",
            sparkline(share.devices, CURVE_COLUMNS, signs),
        )
        for share in found.data
    ]
    columns = ("TEAM", "GUARANTEE ", "AVERAGE ", "HIGHEST ", "USE")
    print_table(console, columns, rows, none="no teams yet")


@teams_app.command("set")
def set_terms(
    team: Annotated[str, typer.Argument(metavar="TEAM", help="A team's name or id.")],
    *,
    guarantee: Annotated[float | None, typer.Option(min=0, help="Devices it gets whenever it asks.")] = None,
    ceiling: Annotated[str | None, typer.Option(help="The most devices it may use, or 'none'.")] = None,
    weight: Annotated[float | None, typer.Option(min=0.001, help="Its share of what is borrowed.")] = None,
    budget: Annotated[str | None, typer.Option(help="Dollars in each period, or 'none'.")] = None,
    period: Annotated[str | None, typer.Option(help="Of the budget: day, week or month.")] = None,
    when_exhausted: Annotated[
        str | None, typer.Option(help="What jobs do when the budget is used up: wait, or run as idle.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a team is promised; what is not given stays. Admins only."""
    given: dict[str, Any] = {
        "guarantee_devices": guarantee,
        "weight": weight,
        "budget_period": period,
        "when_exhausted": when_exhausted,
    }
    terms: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if ceiling is not None:
        terms["ceiling_devices"] = None if ceiling == NONE else _number(ceiling, "--ceiling")
    if budget is not None:
        terms["budget_usd"] = None if budget == NONE else budget
    if not terms:
        raise CommandError("nothing to change: give at least one option, such as --guarantee 2")
    with connect() as client:
        done = client.teams.set_terms(team, **terms)
        show(done, as_json=as_json, draw=lambda console: print_facts(console, _team_facts(done)))


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CommandError(f"{option}: {text!r} is neither a number nor 'none'") from None


def _team_row(team: Team) -> tuple[str, ...]:
    budget = team.budget
    return (
        team.name,
        f"{team.guarantee_devices:g}",
        "-" if team.ceiling_devices is None else f"{team.ceiling_devices:g}",
        f"{team.weight:g}",
        f"{team.running_devices:.2f}",
        "-" if team.budget_usd is None else f"${float(team.budget_usd):,.2f}/{team.budget_period}",
        "-" if budget is None or budget.left_usd is None else f"${float(budget.left_usd):,.2f}",
        "-" if budget is None or budget.budget_usd is None else say_moment(budget.period_ends_at),
    )


def _team_facts(team: Team) -> list[tuple[str, str]]:
    columns = ("team", "guarantee", "ceiling", "weight", "running", "budget", "left", "period ends")
    facts = list(zip(columns, _team_row(team), strict=True))
    return [*facts, *(("warning", text) for text in team.warnings)]


def _draw_new(console: Console, key: Key) -> None:
    print_line(console, f"{key.secret}")
    print_line(console, f"{key.name} ({key.role}). Keep it: it is not shown again.", style="dim")


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return f"until {say_moment(key.expires_at)}" if key.expires_at else "valid"
