"""Commands about jobs that wait: why, hold, release, change."""

from typing import Annotated, Any

import typer
from rich.console import Console

from api.cli.connection import JobArgument, JsonOption, connect, find_job_id
from api.cli.exits import CommandError
from api.cli.output import print_line, say_moment, show
from api.client.results import Job
from api.client.waits import Why


def hold(job: JobArgument = "last", as_json: JsonOption = False) -> None:
    """Hold a waiting job back until it is released; one that runs goes on."""
    _change(job, as_json=as_json, held=True)


def release(job: JobArgument = "last", as_json: JsonOption = False) -> None:
    """Let a held job go."""
    _change(job, as_json=as_json, held=False)


def change(
    job: JobArgument = "last",
    *,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help="Higher goes first in the team.")] = None,
    priority_class: Annotated[str | None, typer.Option("--class", help="urgent, normal or idle.")] = None,
    before: Annotated[str | None, typer.Option(metavar="JOB", help="Move it directly before this job.")] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1, max=256, help="Rows on the device at once.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Compute activations twice.")
    ] = None,
    device_type: Annotated[str | None, typer.Option(help="A device type of the pool, or auto.")] = None,
    flexible: Annotated[
        bool | None, typer.Option("--flexible/--fixed", help="Let the scheduler choose a smaller footprint.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change how a job waits: its priority, class, order, or how much room it asks for."""
    given = {
        "priority": priority,
        "priority_class": priority_class,
        "before": before,
        "micro_batch_size": micro_batch,
        "gradient_checkpointing": checkpointing,
        "device_type": device_type,
        "flexible": flexible,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise CommandError("nothing to change: give at least one option, such as --priority 10")
    _change(job, as_json=as_json, **changes)


def why(job: JobArgument = "last", as_json: JsonOption = False) -> None:
    """Say why a job waits, where it stands in the queue, and what would let it start."""
    with connect() as client:
        found = client.jobs.why(find_job_id(client, job))
        show(found, as_json=as_json, draw=lambda console: _draw_why(console, found))


def _draw_why(console: Console, found: Why) -> None:
    print_line(console, found.sentence)
    if found.position is not None:
        print_line(console, f"Number {found.position} of {found.waiting} in the queue.")
    if found.expected_start_at is not None:
        print_line(console, f"Expected to start {say_moment(found.expected_start_at)}.")
    for hint in found.would_start_if:
        print_line(console, f"- {hint.sentence}")


def _change(job: str, *, as_json: bool, **changes: Any) -> None:
    with connect() as client:
        if "before" in changes:
            changes["before"] = find_job_id(client, changes["before"])
        done = client.jobs.change(find_job_id(client, job), **changes)
        show(done, as_json=as_json, draw=lambda console: print_line(console, _sentence(done)))


def _sentence(job: Job) -> str:
    held = ", held back" if job.held else ""
    return f"{job.id}  {job.status}, class {job.priority_class}, priority {job.priority}{held}"
