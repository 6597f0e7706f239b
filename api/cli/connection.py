"""Which pool a command talks to: the one named in the environment, or else the stack that runs in the data folder."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from api.cli.exits import CommandError, ExitCode
from api.cli.plain import harmless
from api.client.errors import ClientError
from api.client.tunepool import Tunepool
from api.stack.folder import DataFolder, is_locked, read_json

MAX_RETRIES = 5
DEFAULT_DATA_DIR = Path(".tunepool")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The data folder of the embedded stack.", envvar="TUNEPOOL_DATA_DIR"),
]
SEARCHED_JOBS = 100
COMPLETED_JOBS = 20


def complete_job(incomplete: str) -> list[tuple[str, str]]:
    """Ids that begin so, with what they are; none when the pool cannot be asked at once."""
    try:
        with connect(max_retries=0) as client:
            found = client.jobs.list(limit=COMPLETED_JOBS).data
    except (CommandError, ClientError):
        return []
    shown = [("last", "the newest job"), *((job.id, f"{job.status}, {harmless(job.model)}") for job in found)]
    return [(job_id, what) for job_id, what in shown if job_id.startswith(incomplete)]


JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's id or the end of it, or 'last' for the newest.", autocompletion=complete_job
    ),
]


def data_folder(asked: Path | None) -> DataFolder:
    return DataFolder((asked or DEFAULT_DATA_DIR).absolute())


def connect(*, max_retries: int = MAX_RETRIES) -> Tunepool:
    """A client for the pool. Raises CommandError when neither the environment nor a running stack names one."""
    url, api_key = os.environ.get("TUNEPOOL_URL"), os.environ.get("TUNEPOOL_API_KEY")
    folder = data_folder(Path(os.environ["TUNEPOOL_DATA_DIR"]) if "TUNEPOOL_DATA_DIR" in os.environ else None)
    local = read_json(folder.client_file)
    if not url and not is_locked(folder):
        raise CommandError(
            f"no pool: TUNEPOOL_URL is not set, and no stack runs on {folder.root}",
            ExitCode.UNAVAILABLE,
            hint="start one with `tunepool up`, or set TUNEPOOL_URL and TUNEPOOL_API_KEY",
        )
    url = url or local.get("url")
    api_key = api_key or (local.get("api_key") if url == local.get("url") else None)
    if not api_key:
        raise CommandError(f"no API key for {url}", ExitCode.UNAUTHORIZED, hint="set TUNEPOOL_API_KEY")
    return Tunepool(url, api_key, max_retries=max_retries)


def find_job_id(client: Tunepool, asked: str) -> str:
    """The id itself; 'last' is the newest job, and the end of an id is one of the newest jobs."""
    if asked == "last":
        page = client.jobs.list(limit=1)
        if not page.data:
            raise CommandError("there are no jobs yet", ExitCode.NOT_FOUND)
        return page.data[0].id
    if not re.fullmatch(r"[0-9a-f]{4,31}", asked):
        return asked
    found = [job.id for job in client.jobs.list(limit=SEARCHED_JOBS).data if job.id.endswith(asked)]
    if len(found) != 1:
        problem = f"{len(found)} jobs end" if found else "none of the newest jobs ends"
        raise CommandError(f"{problem} in {asked}", ExitCode.NOT_FOUND, hint="give the whole id; see `tunepool jobs`")
    return found[0]
