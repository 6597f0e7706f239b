"""Commands about arrays of jobs: submit, list, show, limit, cancel."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from api.cli.connection import JsonOption, connect
from api.cli.exits import CommandError, ExitCode
from api.cli.jobfile import read_values
from api.cli.output import print_facts, print_line, print_table, say_moment, show, status_text
from api.client.arrays import JobArray
from api.client.tunepool import Tunepool

arrays_app = typer.Typer(help="Arrays of jobs: list, show, cancel, set.")
NONE = "none"
"""Takes the limit away."""

ArrayArgument = Annotated[str, typer.Argument(metavar="ARRAY", help="An array's id, or 'last' for the newest.")]


def read_vary(options: Sequence[str]) -> dict[str, list[Any]]:
    """`lora.r=8,16` as a field and its values, which are read as YAML is."""
    vary: dict[str, list[Any]] = {}
    for option in options:
        path, equals, text = option.partition("=")
        if not equals or not path or not text:
            raise CommandError(f"--vary {option}: write FIELD=VALUE,VALUE such as lora.r=8,16,32")
        if path in vary:
            raise CommandError(f"--vary {option}: {path} is given twice")
        vary[path] = read_values(text, f"--vary {option}")
    return vary


def draw_submitted(console: Console, array: JobArray) -> None:
    limit = f", at most {array.max_parallel} at once" if array.max_parallel else ""
    print_line(console, f"{array.id}  {array.total} jobs{limit}")


@arrays_app.callback(invoke_without_command=True)
def arrays_default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_arrays(as_json=as_json)


@arrays_app.command("list")
def list_arrays(as_json: JsonOption = False) -> None:
    """List arrays, newest first, with how many of their jobs are in each state."""
    with connect() as client:
        found = tuple(client.arrays.list())
        rows = [
            (
                array.id,
                array.name,
                str(array.total),
                _say_counts(array),
                _say_limit(array),
                say_moment(array.created_at),
            )
            for array in found
        ]
        columns = ("ARRAY", "NAME", "JOBS ", "STATES", "AT ONCE ", "CREATED")
        show(found, as_json=as_json, draw=lambda console: print_table(console, columns, rows, none="no arrays yet"))


@arrays_app.command("show")
def show_array(array: ArrayArgument = "last", as_json: JsonOption = False) -> None:
    """Show an array: what varies, each job's state, and the best loss on the validation file so far."""
    with connect() as client:
        found = client.arrays.get(_find_array_id(client, array))
        show(found, as_json=as_json, draw=lambda console: _draw_array(console, found))


@arrays_app.command("cancel")
def cancel_array(array: ArrayArgument, as_json: JsonOption = False) -> None:
    """Cancel every job of an array that has not ended."""
    with connect() as client:
        found = client.arrays.cancel(_find_array_id(client, array))
        show(found, as_json=as_json, draw=lambda console: print_line(console, f"{found.id}  {_say_counts(found)}"))


@arrays_app.command("set")
def set_array(
    array: ArrayArgument,
    max_parallel: Annotated[str, typer.Option(help="How many of its jobs may run at once, or 'none'.")],
    as_json: JsonOption = False,
) -> None:
    """Change how many jobs of an array run at once; those that run go on."""
    if max_parallel != NONE and not max_parallel.isdecimal():
        raise CommandError(f"--max-parallel: {max_parallel!r} is neither a number nor 'none'")
    with connect() as client:
        limit = None if max_parallel == NONE else int(max_parallel)
        found = client.arrays.set_max_parallel(_find_array_id(client, array), limit)
        show(
            found,
            as_json=as_json,
            draw=lambda console: print_line(console, f"{found.id}  at once: {_say_limit(found)}"),
        )


def _find_array_id(client: Tunepool, asked: str) -> str:
    if asked != "last":
        return asked
    newest = next(client.arrays.list(), None)
    if newest is None:
        raise CommandError("there are no arrays yet", ExitCode.NOT_FOUND)
    return newest.id


def _draw_array(console: Console, array: JobArray) -> None:
    print_facts(
        console,
        [
            ("array", array.id),
            ("name", array.name),
            ("team", array.team),
            ("jobs", f"{array.total}: {_say_counts(array)}"),
            ("at once", _say_limit(array)),
            ("best", array.best_job_id),
        ],
    )
    paths = list(dict.fromkeys(path for job in array.jobs for path in job.varied))
    rows: list[tuple[str | Text, ...]] = [
        (
            job.id,
            status_text(job.status),
            *(str(job.varied.get(path)) for path in paths),
            "" if job.best_eval_loss is None else f"{job.best_eval_loss:.4f}",
        )
        for job in array.jobs
    ]
    print_table(console, ("JOB", "STATUS", *(path.upper() for path in paths), "EVAL LOSS "), rows, none="no jobs")


def _say_counts(array: JobArray) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(array.counts.items()))


def _say_limit(array: JobArray) -> str:
    return "-" if array.max_parallel is None else str(array.max_parallel)
