"""Commands about adapters: list, and pull into a folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from api.cli.connection import JsonOption, connect, find_job_id
from api.cli.output import print_json, print_table, say_bytes, say_moment, show
from api.cli.waiting import waiting
from api.client.results import Adapter


def adapters(as_json: JsonOption = False) -> None:
    """List the adapters that jobs made, newest first."""
    with connect() as client:
        page = client.adapters.list()
        show(page.data, as_json=as_json, draw=lambda console: _draw(console, page.data))


def pull(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job's or an adapter's id, or 'last'.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to put the files in.")],
    as_json: JsonOption = False,
) -> None:
    """Download an adapter in PEFT's format and check every file against its SHA-256.

    A download that broke is simply started again.
    """
    with connect() as client:
        job_id = find_job_id(client, job)
        with waiting(f"downloading the adapter of {job_id}") as told:
            folder = client.adapters.download(job_id, directory, on_progress=told)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if as_json:
        print_json({"directory": str(folder), "files": [path.name for path in files]})
        return
    size_bytes = sum(path.stat().st_size for path in files)
    typer.echo(f"{folder}: {len(files)} files, {say_bytes(size_bytes)}, all checksums match")


def _draw(console: Console, found: tuple[Adapter, ...]) -> None:
    rows = [(a.id, a.name, a.base_model, say_bytes(a.size_bytes), say_moment(a.created_at), a.job_id) for a in found]
    columns = ("ADAPTER", "NAME", "BASE MODEL", "SIZE ", "CREATED", "JOB")
    print_table(console, columns, rows, none="no adapters yet")
