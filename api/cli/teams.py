"""Commands about teams and API keys."""

from typing import Annotated

import typer
from rich.console import Console

from api.cli.connection import JsonOption, connect
from api.cli.output import print_line, print_table, say_moment, show
from api.client.results import Key

keys_app = typer.Typer(help="API keys: list, create, revoke.")
teams_app = typer.Typer(help="Teams: list, create.")

SECONDS_PER_DAY = 86_400


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
    """List teams."""
    with connect() as client:
        found = client.teams.list()
        rows = [(team.id, team.name, say_moment(team.created_at)) for team in found]
        columns = ("TEAM", "NAME", "CREATED")
        show(found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="no teams yet"))


@teams_app.command("create")
def create_team(name: Annotated[str, typer.Argument(metavar="NAME")], as_json: JsonOption = False) -> None:
    """Make a team."""
    with connect() as client:
        made = client.teams.create(name=name)
        show(made, as_json=as_json, draw=lambda console: print_line(console, f"{made.id}  {made.name}"))


def _draw_new(console: Console, key: Key) -> None:
    print_line(console, f"{key.secret}")
    print_line(console, f"{key.name} ({key.role}). Keep it: it is not shown again.", style="dim")


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return f"until {say_moment(key.expires_at)}" if key.expires_at else "valid"
