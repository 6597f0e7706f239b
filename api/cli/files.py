"""Commands about data sets and result files."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.connection import JsonOption, connect
from api.cli.exits import CommandError
from api.cli.output import print_line, print_table, say_bytes, say_moment, show, status_text
from api.cli.waiting import waiting
from api.client.results import File

app = typer.Typer(help="Data sets and result files: list, upload, delete.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_files(as_json=as_json)


@app.command("list")
def list_files(as_json: JsonOption = False) -> None:
    """List files, newest first."""
    with connect() as client:
        found = tuple(client.files.all())
        rows = [_row(file) for file in found]
        columns = ("FILE", "NAME", "SIZE ", "PURPOSE", "STATUS", "CREATED")
        show(found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="no files yet"))


@app.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="A data set in JSON Lines.")],
    as_json: JsonOption = False,
) -> None:
    """Upload a data set."""
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    with connect() as client:
        with waiting(f"uploading {path.name}") as told:
            file = client.files.create(path, on_progress=told)
        show(file, as_json=as_json, draw=lambda console: print_line(console, f"{file.id}  {say_bytes(file.bytes)}"))


@app.command("delete")
def delete(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file's id.")], as_json: JsonOption = False
) -> None:
    """Delete a file; one that a job still needs is refused."""
    with connect() as client:
        done = client.files.delete(file)
        show(done, as_json=as_json, draw=lambda console: print_line(console, f"{done.id}  deleted"))


def _row(file: File) -> tuple[str, ...]:
    status = status_text(file.status)
    if file.status_details:
        status.append(f": {file.status_details}")
    return file.id, file.filename, say_bytes(file.bytes), file.purpose, status.plain, say_moment(file.created_at)
