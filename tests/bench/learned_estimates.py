"""Predicted against real over runs of one kind on a live stack, on the CPU: before the first, and after each.

    python -m tests.bench.learned_estimates [--model tiny|smollm2] [--runs 4] [--steps 12]

The same job again and again, with a validation file, then one that is twice as long: its kind is the same. What is
predicted is what the job shows once its files are checked; what is real is what is billed, and the peak resident set.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from api.client import Tunepool
from api.client.results import Job
from tests.bench.machine import print_table
from tests.e2e.jobs import MODEL, make_spec, write_rows
from tests.support.models import build_tiny_model, real_model_folder
from tests.support.stack import run_stack, wait_final

HEADER = [
    "run",
    "steps",
    "memory predicted",
    "reserved",
    "real peak",
    "error",
    "time predicted",
    "range",
    "real",
    "error",
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="smollm2")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tp") as name:
        folder = Path(name)
        model = real_model_folder() if asked.model == "smollm2" else build_tiny_model(folder / "model")
        with (
            run_stack(folder / "data", lease_seconds=120, torch_threads=1 if asked.model == "tiny" else None) as stack,
            stack.connect() as client,
        ):
            client.base_models.create(name=MODEL, location=str(model))
            files = {
                "training_file": client.files.create(write_rows(folder / "train.jsonl")).id,
                "validation_file": client.files.create(write_rows(folder / "held-out.jsonl", rows=8)).id,
            }
            lengths = [asked.steps] * asked.runs + [2 * asked.steps]
            rows = [_run(client, files, number, steps) for number, steps in enumerate(lengths, start=1)]
            print_table(f"Predicted against real, {asked.model}", HEADER, rows)
            accuracy = client.estimates.accuracy()
    print(f"\nover these {accuracy.attempts} attempts: {accuracy.model_dump_json()}")


def _run(client: Tunepool, files: dict[str, str], number: int, steps: int) -> list[str]:
    spec = make_spec(client, files["training_file"], steps=steps) | files
    job = wait_final(client, client.jobs.create(**spec).id, seconds=1200)
    assert job.status == "succeeded", job.error
    (attempt,) = client.jobs.attempts(job.id)
    assert attempt.started_at is not None
    assert attempt.ended_at is not None
    memory, time = _predicted(job, "memory"), _predicted(job, "time")
    raw = memory["total_bytes"] - memory["breakdown"].get("calibration", 0)
    real = attempt.ended_at - attempt.started_at
    peak = attempt.peak_device_bytes
    return [
        str(number),
        str(steps),
        f"{raw / 2**20:.0f} MiB",
        f"{memory['total_bytes'] / 2**20:.0f} MiB",
        f"{peak / 2**20:.0f} MiB",
        f"{100 * (peak / memory['total_bytes'] - 1):+.1f} %",
        f"{time['seconds']:.0f} s",
        f"{time['low_seconds']:.0f} to {time['high_seconds']:.0f} s",
        f"{real:.0f} s",
        f"{100 * (real / time['seconds'] - 1):+.1f} %",
    ]


def _predicted(job: Job, what: str) -> dict[str, Any]:
    assert job.estimate is not None
    found: dict[str, Any] = job.estimate[what]["cpu"]
    return found


if __name__ == "__main__":
    main()
