"""Commands about what jobs run on and from: devices, prices, base models."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from api.cli.connection import JsonOption, connect
from api.cli.exits import CommandError
from api.cli.output import print_line, print_table, say_bytes, say_moment, say_usd, show, show_id
from api.cli.waiting import waiting
from api.client.devices import Device, Lack, Node, Pool, PoolRules

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="A node's name, as `tunepool pool` shows it.")]
models_app = typer.Typer(help="Base models of the pool: list, add, remove.")
prices_app = typer.Typer(help="The price book: list, set.")


def pool(as_json: JsonOption = False) -> None:
    """Show the devices, what runs on each, and how much of it is free."""
    with connect() as client:
        found = client.pool.get()
        show(found, as_json=as_json, draw=lambda console: _draw_pool(console, found))


def cordon(node: NodeArgument, as_json: JsonOption = False) -> None:
    """Let nothing new start on a node; what runs there goes on."""
    _set_node(node, "cordon", as_json=as_json)


def drain(node: NodeArgument, as_json: JsonOption = False) -> None:
    """Empty a node: what runs there saves a checkpoint and goes on elsewhere."""
    _set_node(node, "drain", as_json=as_json)


def uncordon(node: NodeArgument, as_json: JsonOption = False) -> None:
    """Let a node take jobs again."""
    _set_node(node, "uncordon", as_json=as_json)


def _set_node(node: str, wish: str, *, as_json: bool) -> None:
    with connect() as client:
        done = client.pool.set_node(node, wish)
        show(done, as_json=as_json, draw=lambda console: print_line(console, f"{done.id}  {_node_state(done)}"))


def _node_state(node: Node) -> str:
    if node.automatic and node.cordoned_at is not None:
        return "rests: nothing ran there, and no job needs it"
    if node.drain_requested_at is not None:
        return "drains"
    return "takes nothing new" if node.cordoned_at is not None else "takes jobs"


@models_app.callback(invoke_without_command=True)
def models_default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_models(as_json=as_json)


@models_app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the base models that jobs may name."""
    with connect() as client:
        found = client.base_models.list()
        rows = [
            (m.id, m.source, m.location, say_bytes(m.size_bytes), f"{m.facts.get('total_parameters', 0) / 1e6:,.0f} M")
            for m in found
        ]
        columns = ("MODEL", "SOURCE", "LOCATION", "SIZE ", "PARAMETERS ")
        show(found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="no models yet"))


@models_app.command("add")
def add_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that jobs will use.")],
    location: Annotated[str, typer.Argument(metavar="PATH|s3://…|HUB-ID", help="Where the model is.")],
    as_json: JsonOption = False,
) -> None:
    """Register a base model: a folder on the nodes, an s3:// prefix, or a hub id."""
    is_path = location.startswith((".", "/", "~")) or Path(location).is_dir()
    where = str(Path(location).expanduser().absolute()) if is_path and "://" not in location else location
    with connect() as client:
        with waiting(f"reading {where}"):
            made = client.base_models.create(name=name, location=where)
        show(
            made, as_json=as_json, draw=lambda console: print_line(console, f"{made.id}  {say_bytes(made.size_bytes)}")
        )


@models_app.command("remove")
def remove_model(name: Annotated[str, typer.Argument(metavar="NAME")], as_json: JsonOption = False) -> None:
    """Take a base model out of the registry; its files stay."""
    with connect() as client:
        done = client.base_models.delete(name)
        show(done, as_json=as_json, draw=lambda console: print_line(console, f"{done.id}  removed"))


@prices_app.callback(invoke_without_command=True)
def prices_default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_prices(as_json=as_json)


@prices_app.command("list")
def list_prices(as_json: JsonOption = False) -> None:
    """List what each device type costs."""
    with connect() as client:
        found = client.prices.list()
        rows = [
            (p.device_type, f"{say_usd(p.usd_micros_per_hour)}/h", str(p.version), say_moment(p.created_at))
            for p in found
        ]
        columns = ("DEVICE TYPE", "PRICE ", "VERSION ", "SINCE")
        show(
            found,
            as_json=as_json,
            draw=lambda console: print_table(console, columns, rows, none="no prices yet: the defaults hold"),
        )


@prices_app.command("set")
def set_price(
    device_type: Annotated[str, typer.Argument(metavar="DEVICE-TYPE", help="As `tunepool pool` shows it.")],
    usd_per_hour: Annotated[str, typer.Argument(metavar="DOLLARS", help="For the whole device and one hour.")],
    as_json: JsonOption = False,
) -> None:
    """Set a price; it holds for attempts that start from now on."""
    if not re.fullmatch(r"\d+(\.\d{1,6})?", usd_per_hour):
        raise CommandError(f"{usd_per_hour!r} is not a price: write dollars such as 0.35, at most six decimal places")
    with connect() as client:
        made = client.prices.create(device_type=device_type, usd_per_hour=usd_per_hour)
        text = f"{made.device_type}  {say_usd(made.usd_micros_per_hour)}/h"
        show(made, as_json=as_json, draw=lambda console: print_line(console, text))


def _draw_pool(console: Console, found: Pool) -> None:
    columns = ("DEVICE", "TYPE", "MEMORY ", "RESERVED ", "FREE ", "RUNS")
    print_table(
        console, columns, [_device_row(console, device) for device in found.devices], none="no devices are known yet"
    )
    for node in found.nodes:
        print_line(console, f"{node.id}  {_node_state(node)}", style="yellow")
    for lack in found.lacks:
        print_line(console, _say_lack(lack), style="yellow")
    if found.rules is not None:
        print_line(console, _say_rules(found.rules), style="dim")


def _say_lack(lack: Lack) -> str:
    jobs = "1 waiting job" if lack.jobs == 1 else f"{lack.jobs} waiting jobs"
    devices = "1 more device" if lack.devices == 1 else f"{lack.devices} more devices"
    together = f", {lack.together} on one node," if lack.together > 1 else ""
    return f"{jobs} would start on {devices} of type {lack.device_type} ({say_bytes(lack.usable_bytes)}){together} now"


def _say_rules(rules: PoolRules) -> str:
    """What may take a running job's place, where an admin has a choice."""
    if not rules.preemption:
        return "rules: no job is stopped for another"
    turns = " and ".join(f"{hours:g}" for hours in rules.turns_hours)
    said = ["guarantees and classes may stop jobs"]
    said += ["so may teams that borrow less"] if rules.borrower_fairness else []
    spared = ", but not from a larger job" if rules.turns_spare_larger else ""
    said += [f"borrowers take turns, after {turns} device-hours{spared}"] if turns else []
    said += ["smaller jobs move out of a long waiter's way"] if rules.moves else []
    return f"rules: {'; '.join(said)}"


def _device_row(console: Console, device: Device) -> tuple[str | Text, ...]:
    runs = ", ".join(
        (show_id(console, use.job_id) if use.job_id else "another team's job") + (" (ending)" if use.draining else "")
        for use in device.uses
    )
    return (
        device.id,
        device.device_type,
        say_bytes(device.usable_bytes),
        say_bytes(device.reserved_bytes),
        say_bytes(device.free_bytes),
        runs if device.online else Text("offline", style="red"),
    )
