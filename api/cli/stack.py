"""Commands about the embedded stack: bring it up, take it down, see how it is."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.panel import Panel

from api.cli.connection import DEFAULT_DATA_DIR, DataDirOption, JsonOption, data_folder
from api.cli.exits import CommandError, ExitCode
from api.cli.output import make_console, print_json, print_table, say_bytes, status_text
from api.cli.waiting import waiting
from api.stack import control
from api.stack.folder import DataFolder, read_json
from api.stack.state import StackStatus, find_status
from api.stack.up import Options, Stack


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    data_dir: DataDirOption = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="The API's port (8080, or a free one).")] = None,
    cpu_memory_gib: Annotated[
        float | None, typer.Option(min=0.5, help="Memory that jobs may use on a machine without a GPU.")
    ] = None,
) -> None:
    """Start a whole pool on this machine: API, scheduler, Ray and object store."""
    options = Options(data_dir=data_dir or DEFAULT_DATA_DIR, api_port=port, cpu_memory_gib=cpu_memory_gib)
    folder = data_folder(data_dir)
    screen = Screen(make_console(), folder)
    if detach:
        with screen:
            control.start_detached(options, screen.update)
        return
    stack = Stack(options, screen.update)
    with screen, _signals(stack):
        stack.run()


def down(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """End the stack of a data folder; its data stay."""
    folder = data_folder(data_dir)
    with waiting("ending the stack"):
        ended = control.stop(folder)
    if as_json:
        print_json({"stopped": ended is not None, "data_dir": str(folder.root)})
    elif ended is None:
        typer.echo(f"no stack runs on {folder.root}")
    else:
        typer.echo(f"the stack on {folder.root} has ended")


def status(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show each part of the stack that runs on a data folder."""
    folder = data_folder(data_dir)
    found = find_status(folder)
    if found is None:
        raise CommandError(f"no stack runs on {folder.root}", ExitCode.UNAVAILABLE, hint="start one with `tunepool up`")
    parts = [{**asdict(part), "rss_bytes": _rss_bytes(part.pid) if part.pid else None} for part in found.parts]
    if as_json:
        print_json({**asdict(found), "data_dir": str(folder.root), "parts": parts})
        return
    console = make_console()
    console.print(f"{found.url}  ", status_text(found.phase), f"  {folder.root}", sep="")
    rows = [_part_row(part) for part in parts]
    print_table(console, ("PART", "STATE", "PROCESS ", "MEMORY ", "RESTARTS ", "LAST CAUSE"), rows, none="no parts")


def _part_row(part: dict[str, Any]) -> tuple[Any, ...]:
    pid, restarts = part["pid"], part["restarts"]
    return (
        part["name"],
        status_text(part["state"]),
        str(pid) if pid else "",
        say_bytes(part["rss_bytes"]),
        str(restarts) if restarts else "",
        part["cause"],
    )


def _rss_bytes(pid: int) -> int:
    """Resident memory of a process and everything below it."""
    try:
        top = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (top, *top.children(recursive=True)))
    except psutil.Error:
        return 0


class Screen:
    """One live line while the stack starts and ends, and what the user needs once it is ready."""

    def __init__(self, console: Console, folder: DataFolder) -> None:
        self._console = console
        self._folder = folder
        self._live = console.status("starting") if console.is_terminal else None
        self._last = ""
        self._welcomed = False

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, status: StackStatus) -> None:
        if status.phase == "ready" and not self._welcomed:
            self._welcomed = True
            if self._live is not None:
                self._live.stop()
            self._welcome(status)
            return
        parts = "  ".join(f"{part.name} {part.state}" for part in status.parts)
        line = f"{status.phase}: {parts}"
        if self._live is not None and not self._welcomed:
            self._live.update(line)
        elif line != self._last and status.phase in {"degraded", "ready"}:
            self._console.print(line, markup=False)
        self._last = line

    def _welcome(self, status: StackStatus) -> None:
        lines = [f"[bold]{status.url}[/bold]   data in {self._folder.root}"]
        if status.first_start:
            key = read_json(self._folder.client_file).get("api_key", "")
            lines += [
                "",
                f"admin key [bold]{key}[/bold]",
                "It is shown this once. The command line here knows it already.",
            ]
        lines += ["", f"export TUNEPOOL_URL={status.url}", "tunepool submit examples/qlora.yaml --follow"]
        text = "\n".join(lines)
        self._console.print(Panel(text, title="Tunepool is up", expand=False) if self._console.is_terminal else text)


@contextmanager
def _signals(stack: Stack) -> Iterator[None]:
    """Ctrl-C and the like end the stack in order; a second one ends it at once."""

    def stop(*_: object) -> None:
        sys.stderr.write("\nending\n")
        stack.request_stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
