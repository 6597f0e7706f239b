"""What the command line shows: figures with units, job files with lines, progress in one line, codes for errors."""

import io
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from api.cli.exits import CommandError, ExitCode, code_of
from api.cli.follow import BarView, LineView, Outlook, describe, figures_of
from api.cli.jobfile import local_files, read_jobfile, upload_files
from api.cli.output import print_facts, print_table, say_bytes, say_seconds, say_usd
from api.client import errors as client_errors
from api.client.results import Event, Job, MetricPoint
from api.stack.errors import StackError


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**3, "5.0 GiB"), (2**41, "2.0 TiB")],
)
def test_bytes_are_said_in_the_nearest_unit(size: int | None, text: str) -> None:
    assert say_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.25, "0.2s"), (9.9, "9.9s"), (42.4, "42s"), (119.6, "2m 00s"), (3725, "1h 02m 05s")],
)
def test_durations_are_said_for_people(seconds: float | None, text: str) -> None:
    assert say_seconds(seconds) == text


@pytest.mark.parametrize(
    ("micros", "text"), [(0, "$0.000000"), (1, "$0.000001"), (1_234_567, "$1.234567"), (-5, "-$0.000005")]
)
def test_money_is_exact_to_the_micro_dollar(micros: int, text: str) -> None:
    assert say_usd(micros) == text


def _console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=100, force_terminal=terminal, highlight=False, color_system=None), stream


def test_tables_keep_brackets_of_users_and_say_when_there_is_nothing() -> None:
    console, stream = _console()
    print_table(console, ("NAME", "SIZE "), [(Text("[red]x[/red]"), "1")], none="nothing")
    assert "[red]x[/red]" in stream.getvalue()
    console, stream = _console()
    print_table(console, ("NAME",), [], none="nothing")
    assert stream.getvalue() == "nothing\n"


def test_facts_without_a_value_are_left_out() -> None:
    console, stream = _console()
    print_facts(console, [("a", "1"), ("b", None), ("c", ""), ("d", Text("2"))])
    assert stream.getvalue().split() == ["a", "1", "d", "2"]


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(textwrap.dedent(text))
    return path


START = "model: m\ntraining_file: train.jsonl\n"


def test_a_job_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = START + "training:\n  learning_rate: 2e-4\n  packing: no\nteam: red\nhyperparameters:\n  n_epochs: 2\n"
    assert read_jobfile(write(tmp_path, text)).fields == {
        "model": "m",
        "training_file": "train.jsonl",
        "training": {"learning_rate": 0.0002, "packing": False},
        "team": "red",
        "hyperparameters": {"n_epochs": 2},
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("model: m\n", 1, "training_file: this field is needed"),
        (START + "lora:\n  r: 8\n  alhpa: 3\n", 5, "lora.alhpa: there is no such field; did you mean alpha?"),
        (START + "lora:\n  r: 8\n  r: 9\n", 5, "lora.r: given before, in line 4"),
        (START + "lora: {r: 0}\n", 3, "lora.r: should be greater than or equal to 1, but is 0"),
        (START + "hyperparameters:\n  n_epochs: 99\n", 4, "'auto' or less than or equal to 50, but is 99"),
        (START + "suffix: a b\n", 3, "suffix: string should match pattern"),
        (START + "max_cost_usd: 0.1234567\n", 3, "max_cost_usd"),
        (START + "method:\n  type: dpo\n", 4, "method.type: should be 'supervised', but is 'dpo'"),
        ("a: b: c", 1, "not valid YAML"),
        ("model: m\n\tx: 1\n", 2, "not valid YAML"),
        ("- model\n", 1, "a job file holds fields"),
        ("", 1, "a job file holds fields"),
        ("!!python/object/apply:os.getcwd []", 1, "not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_job_file_is_told_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CommandError) as caught:
        read_jobfile(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)
    assert caught.value.code is ExitCode.BAD_INPUT


def test_a_job_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no file"):
        read_jobfile(tmp_path / "none.yaml")


def test_two_learning_rates_are_refused_as_the_server_would(tmp_path: Path) -> None:
    text = START + "training: {learning_rate: 1e-4}\nhyperparameters: {learning_rate_multiplier: 2}\n"
    with pytest.raises(CommandError, match="not both"):
        read_jobfile(write(tmp_path, text))


def test_data_sets_are_found_beside_the_job_file_and_uploaded_once_each(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    job = read_jobfile(write(tmp_path, START + "validation_file: file-abc\n"))
    assert local_files(job) == {"training_file": tmp_path / "train.jsonl"}
    sent: list[Path] = []

    def upload(path: Path) -> str:
        sent.append(path)
        return "file-new"

    fields = upload_files(job, upload)
    assert (fields["training_file"], fields["validation_file"]) == ("file-new", "file-abc")
    assert sent == [tmp_path / "train.jsonl"]
    assert job.fields["training_file"] == "train.jsonl"


def test_a_missing_data_set_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, START)
    with pytest.raises(CommandError, match=rf"{path}:2: training_file: there is no file {tmp_path}/train\.jsonl"):
        local_files(read_jobfile(path))


def test_a_refusal_of_the_server_is_told_with_the_line_of_its_field(tmp_path: Path) -> None:
    job = read_jobfile(write(tmp_path, START + "lora:\n  target_modules: [q_proj, nope]\n"))
    assert str(job.error_of_param("lora.target_modules", "no such module")).endswith(
        "job.yaml:4: lora.target_modules: no such module"
    )
    assert str(job.error_of_param("seed", "bad")).endswith("job.yaml:1: seed: bad")


def a_job(**changes: Any) -> Job:
    fields = {"id": "ftjob-1", "status": "running", "model": "m", "created_at": 5, "training_file": "f", "seed": 7}
    progress = {"step": 4, "total_steps": 10, "percent": 40.0, "trained_tokens": 99}
    return Job.model_validate({**fields, "progress": progress, "phase": "loading_model", **changes})


def point(step: int, at: float, attempt: int = 1, **values: float) -> MetricPoint:
    return MetricPoint(id=f"ftmetric-{step}", attempt=attempt, at=at, step=step, values=values)


def test_speed_and_time_left_come_from_the_newest_attempt() -> None:
    outlook = Outlook()
    assert outlook.seconds_left(a_job()) is None
    outlook.add(point(1, 100.0, train_loss=3.0))
    outlook.add(point(3, 104.0, train_loss=2.5, tokens_per_second=150.0))
    assert outlook.seconds_left(a_job()) == pytest.approx(6 * 2.0)
    outlook.add(point(3, 105.0, eval_loss=2.75))
    assert figures_of(a_job(), outlook) == ["step 4/10", "loss 2.500", "eval 2.750", "150 tok/s", "ETA 12s"]
    outlook.add(point(2, 200.0, attempt=2, train_loss=2.6))
    outlook.add(point(4, 210.0, attempt=2, train_loss=2.4))
    assert outlook.seconds_per_step == pytest.approx(5.0)
    assert describe(a_job(), outlook).startswith("loading model  step 4/10  loss 2.400")


def test_lines_come_when_something_changed_and_not_too_often() -> None:
    console, stream = _console()
    now = [0.0]
    view = LineView(console, clock=lambda: now[0])
    outlook = Outlook()

    def update(step: int, at: float) -> int:
        now[0] = at
        progress = {"step": step, "total_steps": 10, "percent": None, "trained_tokens": None}
        view.update(a_job(progress=progress), outlook)
        return len(stream.getvalue().splitlines())

    assert [update(0, 0), update(1, 1), update(1, 2), update(2, 3), update(3, 11), update(3, 60)] == [0, 1, 1, 1, 2, 2]
    assert update(10, 61) == 3
    view.event(Event(id="e", created_at=0, level="info", message="[bold]queued[/bold]"))
    assert "info   [bold]queued[/bold]" in stream.getvalue()


def test_the_bar_shows_stage_step_and_loss() -> None:
    console, stream = _console(terminal=True)
    view = BarView(console)
    outlook = Outlook()
    outlook.add(point(4, 1.0, train_loss=2.0))
    view.event(Event(id="e", created_at=0, level="warn", message="[x] was lost"))
    view.update(a_job(), outlook)
    view.close()
    assert "[x] was lost" in stream.getvalue()
    assert "loading model" in stream.getvalue()
    assert "40%" in stream.getvalue()
    assert "step 4/10  loss 2.000" in stream.getvalue()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("x", ExitCode.NOT_FOUND), 3),
        (client_errors.BadRequestError("x", status=400), 2),
        (client_errors.TooLargeError("x", status=413), 2),
        (client_errors.NotFoundError("x", status=404), 3),
        (client_errors.UnauthorizedError("x", status=401), 4),
        (client_errors.ForbiddenError("x", status=403), 4),
        (client_errors.NotConfiguredError("x"), 4),
        (client_errors.ConflictError("x", status=409), 6),
        (client_errors.RateLimitedError("x", status=429), 5),
        (client_errors.ServerError("x", status=503), 5),
        (client_errors.ConnectionFailedError("x"), 5),
        (client_errors.DownloadError("x"), 5),
        (StackError("x"), 5),
    ],
)
def test_every_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert code_of(error) == code


def test_every_error_of_the_client_is_listed_with_a_code() -> None:
    def below(kind: type[Exception]) -> list[type[Exception]]:
        return [kind, *[deep for sub in kind.__subclasses__() for deep in below(sub)]]

    assert len(below(client_errors.ClientError)) == 14
    with pytest.raises(ValueError, match="a bug"):
        code_of(ValueError("a bug"))


def test_a_job_survives_a_round_through_json() -> None:
    job = a_job(
        cost={"billed_usd_micros": 5, "billed_usd": "0.000005", "lost_usd_micros": 0, "lost_usd": "0", "final": True}
    )
    assert Job.model_validate(json.loads(job.model_dump_json())) == job
