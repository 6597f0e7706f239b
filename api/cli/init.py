"""A job file for what someone wants to do, with its reasons: `tunepool init`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.connection import JsonOption, connect
from api.cli.exits import CommandError, ExitCode
from api.cli.jobfile import local_files, read_jobfile
from api.cli.jobtext import render_job
from api.cli.output import make_console, print_json, print_line
from api.cli.presets import GOALS, Goal, Task, choose_fields, describe_task
from api.client.errors import ClientError
from api.client.results import BaseModelInfo
from orchestrator.domain.datasets import DatasetReport, DatasetValidator

CHUNK_BYTES = 1024**2
SHOWN_PROBLEMS = 3


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The job file to write.")] = Path("job.yaml"),
    model: Annotated[str | None, typer.Option(help="The base model; asked for when left out.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="The training file; asked for likewise.")
    ] = None,
    goal: Annotated[Goal | None, typer.Option("--for", help="What the job is for; asked for likewise.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a commented job file from three questions, or from three options."""
    if file.exists() and not force:
        raise CommandError(f"{file} is there already", ExitCode.CONFLICT, hint="--force overwrites it")
    _check_can_ask({"--model": model, "--data": data, "--for": goal}, as_json=as_json)
    models = _find_models()
    model = model or _ask_model(models)
    report = _read_data(data) if data else None
    if data is None or report is None:
        data, report = _ask_data()
    goal = goal or _ask_goal()
    facts = {found.id: found.facts for found in models}.get(model, {})
    task = Task(
        model=model,
        training_file=_relative(data, file),
        goal=goal,
        rows=report.rows,
        parameters=facts.get("total_parameters"),
    )
    text = render_job(choose_fields(task), head=describe_task(task, str(file)), tail=CLOSING)
    write_checked(file, text)
    _tell(file, data, report, as_json=as_json)


CLOSING = """\
More that a job may have, all of it optional:
  validation_file: heldout.jsonl      loss on rows that are never trained on
  suffix: my-name                     becomes part of the fine-tuned model's name
  max_cost_usd: 1.00                  the job stops, with a checkpoint, before it costs more
  metadata: {purpose: example}        pairs to find the job by: tunepool jobs --metadata purpose=example"""


def write_checked(path: Path, text: str) -> None:
    """Write a job file whole or not at all, and read it back as `submit` will."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    read_jobfile(part)
    part.replace(path)


def _check_can_ask(given: dict[str, object], *, as_json: bool) -> None:
    missing = [name for name, value in given.items() if value is None]
    if missing and (as_json or not sys.stdin.isatty()):
        raise CommandError(f"nobody can be asked here: give {', '.join(missing)}")


def _find_models() -> tuple[BaseModelInfo, ...]:
    """What the pool has; nothing when there is no pool, because a job file can be written without one."""
    try:
        with connect(max_retries=0) as client:
            return client.base_models.list()
    except (CommandError, ClientError):
        return ()


def _ask_model(models: tuple[BaseModelInfo, ...]) -> str:
    console = make_console(stderr=True)
    if models:
        print_line(console, "base models of this pool: " + ", ".join(found.id for found in models))
    default = models[0].id if models else None
    return str(typer.prompt("Which base model? (a name from the pool, or a hub id)", default=default, err=True))


def _ask_data() -> tuple[Path, DatasetReport]:
    while True:
        asked = Path(str(typer.prompt("Which training file? (JSON Lines)", default="train.jsonl", err=True)))
        try:
            return asked, _read_data(asked)
        except CommandError as error:
            print_line(make_console(stderr=True), str(error), style="red")


def _ask_goal() -> Goal:
    console = make_console(stderr=True)
    for number, (name, what) in enumerate(GOALS.items(), start=1):
        print_line(console, f"  {number}  {name:9}  {what}")
    names = list(GOALS)
    while True:
        answer = str(typer.prompt("What is it for? (a number or a name)", default="3", err=True)).strip()
        if answer.isdecimal() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in names:
            return Goal(answer)


def _read_data(path: Path) -> DatasetReport:
    """Check the whole file as the server will. Raises CommandError when it is not there."""
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    validator = DatasetValidator()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            validator.feed(chunk)
    return validator.finish()


def _relative(data: Path, job_file: Path) -> str:
    """As the job file names it: from its own folder where that is above the data."""
    folder, absolute = job_file.resolve().parent, data.resolve()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _tell(file: Path, data: Path, report: DatasetReport, *, as_json: bool) -> None:
    job = read_jobfile(file)
    local_files(job)
    if as_json:
        print_json({"file": str(file), "fields": job.fields, "rows": report.rows, "valid": report.is_valid})
        return
    errors = make_console(stderr=True)
    for problem in report.problems[:SHOWN_PROBLEMS]:
        print_line(errors, f"note: {data}: {problem.as_sentence()}", style="yellow")
    console = make_console()
    print_line(console, f"{file}: {report.rows:,} rows of {data}")
    print_line(console, f"next: tunepool estimate {file}, then tunepool submit {file} --follow", style="dim")
