"""Commands about jobs: submit, look, follow, stop, bill."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from api.cli.arrays import draw_submitted, read_vary
from api.cli.connection import JobArgument, JsonOption, connect, find_job_id
from api.cli.estimates import draw_estimate
from api.cli.exits import CommandError, ExitCode
from api.cli.follow import SilentView, follow_job, make_view
from api.cli.job_view import draw_job, load_job_view
from api.cli.jobfile import JobFile, local_files, read_jobfile, upload_files
from api.cli.output import (
    make_console,
    print_json,
    print_line,
    print_table,
    say_bytes,
    say_clock,
    say_moment,
    say_seconds,
    say_since,
    say_usd,
    show,
    show_id,
    status_text,
)
from api.cli.plain import harmless_json, harmless_line
from api.cli.waiting import waiting
from api.client.errors import ApiError
from api.client.results import Cost, Job
from api.client.tunepool import Tunepool

JobFileArgument = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A job file; see examples/qlora.yaml.")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="How many.")]


def submit(
    file: JobFileArgument,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Submitting again with the same key gives the same job.")
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option("--vary", metavar="FIELD=A,B", help="Submit an array: a job for each value.")
    ] = None,
    max_parallel: Annotated[
        int | None, typer.Option("--max-parallel", min=1, help="How many jobs of the array may run at once.")
    ] = None,
) -> None:
    """Submit a job file; data sets that it names by a path are uploaded first. With --vary, as an array of jobs."""
    asked, values = read_jobfile(file), read_vary(vary or ())
    if values and follow:
        raise CommandError("--follow is for one job; look at an array with `tunepool arrays show`")
    if max_parallel is not None and not values:
        raise CommandError("--max-parallel is for an array: give --vary too")
    errors = make_console(stderr=True)
    with connect() as client:
        local_files(asked)
        with _server_errors_in(asked):
            fields = _as_sent(upload_files(asked, lambda path: _upload(client, path, errors)))
            if values:
                with waiting("submitting"):
                    array = client.arrays.create(
                        fields, values, max_parallel=max_parallel, name=file.stem, idempotency_key=idempotency_key
                    )
                show(array, as_json=as_json, draw=lambda console: draw_submitted(console, array))
                return
            with waiting("submitting"):
                job = client.jobs.create(idempotency_key=idempotency_key, **fields)
        if not follow:
            show(job, as_json=as_json, draw=lambda console: print_line(console, f"{job.id}  {job.status}"))
            return
        if not as_json:
            make_console().print(job.id)
        _follow_to_exit(client, job.id, as_json=as_json)


def estimate(file: JobFileArgument, as_json: JsonOption = False) -> None:
    """Predict memory, time and cost of a job file, without submitting it."""
    asked = read_jobfile(file)
    local_files(asked)
    with connect() as client, _server_errors_in(asked):
        uploaded: list[str] = []

        def upload(path: Path) -> str:
            with waiting(f"uploading {path.name}") as told:
                uploaded.append(client.files.create(path, on_progress=told).id)
            return uploaded[-1]

        try:
            fields = _as_sent(upload_files(asked, upload))
            with waiting("estimating"):
                found = client.estimates.create(**fields)
        finally:
            for file_id in uploaded:
                client.files.delete(file_id)
        show(found, as_json=as_json, draw=lambda console: draw_estimate(console, found))


def jobs(
    limit: LimitOption = 20,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="Keep jobs that hold KEY=VALUE.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    wanted = dict(_split_pair(pair) for pair in metadata or ())
    with connect() as client:
        page = client.jobs.list(limit=limit, metadata=wanted or None)
        show(page.data, as_json=as_json, draw=lambda console: _draw_jobs(console, page.data))


def show_job(job: JobArgument = "last", follow: FollowOption = False, as_json: JsonOption = False) -> None:
    """Show one job: state, progress, error, cost, adapter; its loss as a curve, its memory as bars."""
    with connect() as client:
        job_id = find_job_id(client, job)
        if follow:
            _follow_to_exit(client, job_id, as_json=as_json)
            return
        found = client.jobs.get(job_id)
        show(found, as_json=as_json, draw=lambda console: draw_job(console, load_job_view(client, found)))


def logs(
    job: JobArgument = "last",
    follow: FollowOption = False,
    attempt: Annotated[int | None, typer.Option(help="Only this attempt's lines.", min=1)] = None,
    level: Annotated[str | None, typer.Option(help="Only lines of this level: info, warn or error.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the log of a job; with -f until the job is over."""
    with connect() as client:
        job_id = find_job_id(client, job)
        with _goes_on(job_id):
            for line in client.jobs.logs(job_id, follow=follow, attempt=attempt, level=level):
                if as_json:
                    sys.stdout.write(harmless_json(line.model_dump_json()) + "\n")
                else:
                    sys.stdout.write(f"{say_clock(line.at)}  {harmless_line(line.text)}\n")
                sys.stdout.flush()


def events(job: JobArgument = "last", follow: FollowOption = False, as_json: JsonOption = False) -> None:
    """Print what happened to a job, oldest first."""
    with connect() as client:
        job_id = find_job_id(client, job)
        with _goes_on(job_id):
            for event in client.jobs.events(job_id, follow=follow):
                if as_json:
                    sys.stdout.write(harmless_json(event.model_dump_json()) + "\n")
                else:
                    message = harmless_line(event.message)
                    sys.stdout.write(f"{say_moment(event.created_at)}  {event.level:5}  {message}\n")
                sys.stdout.flush()


def cancel(job: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a job; a running one stops within a step."""
    _act(job, "cancel", as_json=as_json)


def pause(job: JobArgument, as_json: JsonOption = False) -> None:
    """Pause a job: it saves a checkpoint and gives its device back."""
    _act(job, "pause", as_json=as_json)


def resume(job: JobArgument, as_json: JsonOption = False) -> None:
    """Let a paused job go on from its checkpoint."""
    _act(job, "resume", as_json=as_json)


def cost(job: JobArgument = "last", as_json: JsonOption = False) -> None:
    """Show what a job cost, interval by interval, exact to the micro-dollar."""
    with connect() as client:
        found = client.jobs.cost(find_job_id(client, job))
        show(found, as_json=as_json, draw=lambda console: _draw_cost(console, found))


def _act(job: str, verb: str, *, as_json: bool) -> None:
    with connect() as client:
        done: Job = getattr(client.jobs, verb)(find_job_id(client, job))
        show(done, as_json=as_json, draw=lambda console: print_line(console, f"{done.id}  {_status_now(done, verb)}"))


def _status_now(job: Job, verb: str) -> str:
    waiting = verb in {"cancel", "pause"} and not job.is_final and job.status not in {"paused", "pausing"}
    return f"{job.status}, {verb} requested" if waiting else job.status


def _follow_to_exit(client: Tunepool, job_id: str, *, as_json: bool) -> None:
    """Follow a job and leave with the code of its end."""
    console = make_console()
    with _goes_on(job_id):
        job, _ = follow_job(client, job_id, SilentView() if as_json else make_view(console))
    if as_json:
        print_json(job)
    else:
        draw_job(console, load_job_view(client, job))
    if job.status != "succeeded":
        raise typer.Exit(ExitCode.JOB_FAILED)


@contextmanager
def _goes_on(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the looking, not the job; say so."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nthe job goes on. Follow it again: tunepool show {job_id} --follow\n"
            f"                 Cancel it:       tunepool cancel {job_id}\n"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def _server_errors_in(asked: JobFile) -> Iterator[None]:
    """Tell a refusal of the server with the line of the field that it is about."""
    try:
        yield
    except ApiError as error:
        if error.status != 400 or not error.param:
            raise
        if error.param.startswith("vary"):
            raise CommandError(f"--{error.param}: {error.message}") from error
        raise asked.error_of_param(error.param.removeprefix("job."), error.message) from error


def _upload(client: Tunepool, path: Path, console: Console) -> str:
    with waiting(f"uploading {path.name}") as told:
        file = client.files.create(path, on_progress=told)
    print_line(console, f"uploaded {path.name} ({say_bytes(file.bytes)}) as {file.id}", style="dim")
    return file.id


def _as_sent(fields: dict[str, Any]) -> Any:
    """Money travels as text, so that no float touches it."""
    limit = fields.get("max_cost_usd")
    return {**fields, "max_cost_usd": str(limit)} if limit is not None else fields


def _split_pair(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise CommandError(f"--metadata {pair}: write KEY=VALUE")
    return name, value


def _draw_jobs(console: Console, found: tuple[Job, ...]) -> None:
    rows = [
        (
            show_id(console, job.id),
            status_text(job.status),
            f"{job.progress.percent:.0f} %" if job.progress and job.progress.percent is not None else "",
            job.model,
            say_since(console, job.created_at),
            say_usd(job.cost.billed_usd_micros) if job.cost else "",
        )
        for job in found
    ]
    print_table(console, ("JOB", "STATUS", "DONE ", "MODEL", "CREATED", "BILLED "), rows, none="no jobs yet")


def _draw_cost(console: Console, found: Cost) -> None:
    rows = [
        (
            say_moment(entry.started_at),
            say_seconds(entry.seconds),
            entry.device_id or entry.device_type,
            f"{say_usd(entry.price_usd_micros_per_hour)}/h",
            say_usd(entry.amount_usd_micros),
            "billed" if entry.billed else "lost, charged to nobody",
        )
        for entry in found.entries
    ]
    print_table(console, ("FROM", "FOR ", "DEVICE", "PRICE ", "AMOUNT ", ""), rows, none="nothing was billed yet")
    end = "" if found.final else " so far"
    print_line(console, f"billed{end}: {say_usd(found.billed_usd_micros)}", style="bold")
