"""The main job, for real, on this machine: `make demo`.

Starts the embedded stack in a data folder of its own, trains a QLoRA adapter on made-up support tickets through the
public API, fetches it, loads it in stock PEFT, and shows what it learned, what was predicted and what it cost. Nothing
is left running, however it ends; it can be run again.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.cli.follow import Outlook, follow_job, make_view
from api.cli.output import make_console, say_bytes, say_seconds, say_usd
from api.client import ClientError, Tunepool
from api.client.adapters import sha256_of
from api.client.results import Attempt, Cost, Job
from api.stack import control
from api.stack.errors import StackError
from api.stack.folder import open_folder, read_json
from api.stack.up import Options

HERE = Path(__file__).resolve().parent
TRAIN, HELDOUT = HERE / "data" / "train.jsonl", HERE / "data" / "heldout.jsonl"
MODEL = "smollm2-135m-instruct"
MARK = {"demo": "yes"}
MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the pool knows at the end of the job."""

    job: Job
    attempt: Attempt
    cost: Cost
    outlook: Outlook


def main() -> int:
    parser = argparse.ArgumentParser(description="Run Tunepool's main job for real on this machine.")
    parser.add_argument("--data-dir", type=Path, default=Path(".tunepool-demo"), help="where everything is kept")
    folder: Path = parser.parse_args().data_dir.absolute()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console = make_console()
    try:
        run(console, folder)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return 130
    except (ClientError, StackError, DemoError) as error:
        console.print(f"\n[red]the demo failed:[/red] {error}")
        console.print(f"logs are in {folder / 'logs'}; nothing is left running")
        return 1
    return 0


class DemoError(Exception):
    """The demo did not come out as it must."""


def run(console: Console, folder: Path) -> None:
    started = time.monotonic()
    console.print("[bold]Tunepool[/bold]  a QLoRA job from start to bill, on this machine\n")
    model, adapter = folder / "models" / MODEL, folder / "adapter"
    with prepared_model(model) as wait_for_model, running_stack(console, folder) as client:
        wait_for_model(console)
        if MODEL not in {known.id for known in client.base_models.list()}:
            client.base_models.create(name=MODEL, location=str(model))
        result = train(console, client)
        client.adapters.download(result.job, adapter)
        check_files(console, adapter)
    compared = compare(console, model, adapter)
    show_learning(console, compared, result)
    show_predictions(console, result)
    check_bill(console, result.cost)
    console.print(f"\nAll in {say_seconds(time.monotonic() - started)}; the adapter is in {adapter}")


@contextlib.contextmanager
def prepared_model(folder: Path) -> Iterator[Any]:
    """Make the base model beside everything else; what is yielded waits for it."""
    command = [sys.executable, str(HERE / "prepare_model.py"), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait(console: Console) -> None:
        with console.status("unpacking the base model"):
            said, _ = process.communicate()
        if process.returncode != 0:
            raise DemoError(f"the base model could not be made: {said.strip()}")
        size_bytes = sum(path.stat().st_size for path in folder.iterdir())
        step(console, "base model", f"{MODEL}, {say_bytes(size_bytes)}")

    try:
        yield wait
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None, "the output is a pipe"
        process.stdout.close()


@contextlib.contextmanager
def running_stack(console: Console, folder: Path) -> Iterator[Tunepool]:
    """The embedded stack, and a client with its first key. Ends it whatever happens, and cancels what still runs."""
    started = time.monotonic()
    opened = open_folder(folder)
    try:
        with console.status("starting the stack") as line:
            status = control.start_detached(
                Options(data_dir=folder),
                lambda now: line.update("  ".join(f"{part.name} {part.state}" for part in now.parts)),
                outlive=False,
            )
        step(console, "stack", f"{status.url}, ready in {say_seconds(time.monotonic() - started)}")
        with Tunepool(status.url, read_json(opened.client_file)["api_key"], max_retries=2) as client:
            cancel_running(client)
            try:
                yield client
            finally:
                with contextlib.suppress(ClientError):
                    cancel_running(client)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with console.status("ending the stack"):
            control.stop(opened)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)


def cancel_running(client: Tunepool) -> None:
    """Jobs of this demo, or of one that was killed before."""
    for job in client.jobs.list(limit=100, metadata=MARK):
        if not job.is_final:
            client.jobs.cancel(job.id)


def train(console: Console, client: Tunepool) -> Result:
    train_file, heldout_file = client.files.create(TRAIN), client.files.create(HELDOUT)
    rows = [len(path.read_text().splitlines()) for path in (TRAIN, HELDOUT)]
    step(console, "data", f"{rows[0]} rows to train on, {rows[1]} held out")
    job = client.jobs.create(
        model=MODEL,
        training_file=train_file.id,
        validation_file=heldout_file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        quantization={"type": "nf4", "double_quant": True},
        lora={"r": 16, "target_modules": "all-linear"},
        training={"learning_rate": 1e-3, "scheduler": "cosine", "warmup_ratio": 0.05, "eval_steps": 21},
        suffix="lanternfold",
        seed=7,
        metadata=MARK,
        max_cost_usd="0.50",
    )
    step(console, "job", f"{job.id}: QLoRA, nf4 with double quantization, rank 16\n")
    job, outlook = follow_job(client, job.id, make_view(console))
    if job.status != "succeeded":
        raise DemoError(f"the job {job.status}: {job.error.message if job.error else 'on request'}")
    console.print()
    return Result(job=job, attempt=client.jobs.attempts(job.id)[-1], cost=client.jobs.cost(job.id), outlook=outlook)


def check_files(console: Console, adapter: Path) -> None:
    """Check the files once more, by the manifest and without the client."""
    files = read_json(adapter / "manifest.json")["files"]
    for file in files:
        if sha256_of(adapter / file["name"]) != file["sha256"]:
            raise DemoError(f"{file['name']} is not what the manifest says")
    size_bytes = sum(file["size_bytes"] for file in files)
    step(console, "adapter", f"{len(files)} files, {say_bytes(size_bytes)}, all checksums match")


def compare(console: Console, model: Path, adapter: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "compare.py"), str(model), str(adapter), str(HELDOUT)]
    with console.status("loading the adapter in stock PEFT, and asking before and after"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"stock PEFT could not use the adapter: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def show_learning(console: Console, compared: dict[str, Any], result: Result) -> None:
    before, after = compared["before"], compared["after"]
    if after["loss"] >= before["loss"]:
        raise DemoError(f"nothing was learned: held-out loss {before['loss']:.3f} before, {after['loss']:.3f} after")
    console.print("\n[bold]What it learned[/bold], by stock transformers and PEFT")
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("held-out loss", f"{before['loss']:.3f}", Text(f"{after['loss']:.3f}", style="bold green"))
    own = result.outlook.eval_loss
    table.add_row("the job's own figure, on nf4", "", f"{own:.3f}" if own is not None else "")
    indent(console, table)
    answers = Table(box=None, padding=(0, 3, 0, 0), show_header=False, pad_edge=False)
    answers.add_column(style="dim", no_wrap=True)
    answers.add_column(overflow="fold", max_width=100)
    for name, text, style in (
        ("a customer", compared["question"], ""),
        ("before", before["answer"], ""),
        ("after", after["answer"], "green"),
        ("as written", compared["written"], "dim"),
    ):
        answers.add_row(name, Text(" ".join(text.split()), style=style))
    console.print()
    indent(console, answers)


def show_predictions(console: Console, result: Result) -> None:
    """Predicted before the job ran, and measured while it did."""
    estimate, attempt = result.job.estimate, result.attempt
    if estimate is None or attempt.started_at is None or attempt.ended_at is None:
        raise DemoError("the job has no estimate, or its attempt no times")
    memory, seconds = estimate["memory"][estimate["kind"]], estimate["time"][estimate["kind"]]
    console.print("\n[bold]What it took[/bold]")
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", "predicted", "measured", ""):
        table.add_column(name, justify="right" if name else "left")
    span = f"{say_seconds(seconds['low_seconds'])} to {say_seconds(seconds['high_seconds'])}"
    took = attempt.ended_at - attempt.started_at
    used = attempt.peak_device_bytes
    table.add_row("memory", say_bytes(memory["total_bytes"]), say_bytes(used), "peak of the training process")
    table.add_row("time", say_seconds(seconds["seconds"]), say_seconds(took), f"predicted range {span}")
    cost = result.cost.billed_usd_micros
    table.add_row("cost", say_usd(estimate["cost_usd_micros"]), Text(say_usd(cost), style="bold"), "")
    indent(console, table)


def check_bill(console: Console, cost: Cost) -> None:
    """Recompute every line of the bill with integers, and show it."""
    console.print("\n[bold]The bill[/bold], to the micro-dollar")
    for entry in cost.entries:
        fields = entry.model_dump()
        reserved, device, price = fields["reserved_bytes"], fields["device_bytes"], entry.price_usd_micros_per_hour
        numerator = price * round(entry.seconds * 1_000_000) * reserved
        denominator = MICROSECONDS_PER_HOUR * device
        if (2 * numerator + denominator) // (2 * denominator) != entry.amount_usd_micros:
            raise DemoError(f"the bill is wrong: {fields}")
        share = f"{say_bytes(reserved)} of {say_bytes(device)} of {entry.device_type}"
        amount = f"{say_usd(entry.amount_usd_micros)}{'' if entry.billed else ', charged to nobody'}"
        indent(console, f"{entry.seconds:.6f} s x {say_usd(price)}/h x {share} = {amount}")
    if sum(entry.amount_usd_micros for entry in cost.entries if entry.billed) != cost.billed_usd_micros:
        raise DemoError("the bill is not the sum of its lines")


def step(console: Console, name: str, text: str) -> None:
    console.print(f"[cyan]{name:12}[/cyan]{text}")


def indent(console: Console, what: Any) -> None:
    console.print(Padding(what, (0, 0, 0, 2)))


if __name__ == "__main__":
    sys.exit(main())
