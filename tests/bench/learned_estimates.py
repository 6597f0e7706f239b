"""Predicted against real over runs of several kinds on a live stack, on the CPU: before the first, and after each.

    python -m tests.bench.learned_estimates [--model tiny|smollm2] [--kinds lora,nf4] [--runs 4] [--steps 12]

Each kind is one job again and again, with a validation file. What is predicted is what the job shows once its files
are checked; what is real is what is billed, and the peak resident set. The device is measured before the first job. A
second table says which part of the time was predicted how well, a third how far `estimated_finish` was off. Kinds share
one stack, so later ones profit from earlier ones, as in a pool; ask for one at a time to see each by itself.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client import Tunepool
from api.client.results import Job
from orchestrator.domain.observations import PHASES_OF_TERM, Observation
from orchestrator.store.observations import list_newest
from orchestrator.store.session import Store
from tests.bench.machine import print_table
from tests.support.models import build_tiny_model, real_model_folder
from tests.support.stack import RunningStack, run_stack, wait_final

MODEL = "model"
HEADER = ["kind", "run", "memory predicted", "real peak", "time predicted", "range", "confidence", "real", "error"]
TERM_HEADER = ["kind", "run", *PHASES_OF_TERM, "between", "billed"]
PARTS = (0.25, 0.5, 0.75)
FINISH_HEADER = ["kind", "run", *(f"at {part:.0%} of the steps" for part in PARTS)]
WORDS = ("the", "lantern", "folds", "flat", "and", "sun", "fills", "it", "again", "while", "you", "walk", "along")
FINAL = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Kind:
    """`words` in a row on average; they differ from half to one and a half of it."""

    words: int
    changes: dict[str, Any]


KINDS = {
    "lora": Kind(40, {}),
    "nf4": Kind(40, {"quantization": {"type": "nf4"}}),
    "long": Kind(220, {}),
    "checkpointed": Kind(220, {"training": {"gradient_checkpointing": True}}),
    "nf4-checkpointed": Kind(220, {"quantization": {"type": "nf4"}, "training": {"gradient_checkpointing": True}}),
    "two-layers": Kind(90, {"lora": {"r": 16, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="smollm2")
    parser.add_argument("--kinds", default="lora,nf4")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for the device to be measured")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tp") as name:
        folder = Path(name)
        model = real_model_folder() if asked.model == "smollm2" else build_tiny_model(folder / "model")
        threads = 1 if asked.model == "tiny" else None
        with run_stack(folder / "data", lease_seconds=120, torch_threads=threads) as stack, stack.connect() as client:
            client.base_models.create(name=MODEL, location=str(model))
            speed = _wait_measured(client, seconds=asked.patience)
            tables: list[tuple[str, list[str], list[list[str]]]] = [
                (f"Predicted against real, {asked.model}, {asked.steps} steps, {speed} speed", HEADER, []),
                ("Seconds predicted for what was done, raw, and measured", TERM_HEADER, []),
                ("Error of estimated_finish, in shares of the run's time", FINISH_HEADER, []),
            ]
            try:
                for kind in asked.kinds.split(","):
                    files = _upload(client, folder, KINDS[kind].words)
                    for number in range(1, asked.runs + 1):
                        job, said = _run(client, files, KINDS[kind], asked.steps)
                        seen = _observe(stack, job)
                        found = (_compare(job, seen), _describe(seen), _judge(said, seen, asked.steps))
                        for (_, _, rows), cells in zip(tables, found, strict=True):
                            rows.append([kind, str(number), *cells])
            finally:
                for title, header, rows in tables:
                    print_table(title, header, rows)


def _wait_measured(client: Tunepool, *, seconds: float) -> str:
    """The pool measures its CPU once it is quiet, unless the machine is busy with something else: then the catalogue's
    speed is used. Returns which."""
    deadline = time.monotonic() + seconds
    while True:
        found = client.estimates.create(model=MODEL, rows=100, tokens=10_000, longest_row_tokens=200)
        source = str(found.time["cpu"].speed)
        if source == "measured" or time.monotonic() > deadline:
            return source
        time.sleep(0.5)


def _upload(client: Tunepool, folder: Path, words: int) -> dict[str, str]:
    training = client.files.create(_write_rows(folder / "train.jsonl", 40, words=words))
    held_out = client.files.create(_write_rows(folder / "held-out.jsonl", 8, words=words))
    return {"training_file": training.id, "validation_file": held_out.id}


def _write_rows(path: Path, rows: int, *, words: int) -> Path:
    source, lines = random.Random(words), []
    for _ in range(rows):
        count = max(4, round(words * source.uniform(0.5, 1.5)))
        text = [source.choice(WORDS) for _ in range(count)]
        middle = count // 2
        messages = [("user", text[:middle]), ("assistant", text[middle:])]
        lines.append({"messages": [{"role": role, "content": " ".join(part)} for role, part in messages]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _run(client: Tunepool, files: dict[str, str], kind: Kind, steps: int) -> tuple[Job, dict[int, float]]:
    """The job at its end, and the finish that it showed when it reached each step."""
    training = {"max_steps": steps, "micro_batch_size": 2, "gradient_checkpointing": False}
    spec: dict[str, Any] = {
        "model": MODEL,
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": 2}}},
        "lora": {"r": 16, "dropout": 0.0},
        **files,
        **kind.changes,
        "training": training | kind.changes.get("training", {}),
    }
    job_id = client.jobs.create(**spec).id
    said: dict[int, float] = {}
    while (job := client.jobs.get(job_id)).status not in FINAL:
        step = job.progress.step if job.progress else 0
        if job.estimated_finish is not None and step not in said:
            said[step] = float(job.estimated_finish)
        time.sleep(0.3)
    job = wait_final(client, job_id)
    assert job.status == "succeeded", job.error
    return job, said


def _observe(stack: RunningStack, job: Job) -> Observation:
    """Straight from the stack's database: the API rounds moments to seconds."""
    store = Store(f"sqlite:///{stack.folder / 'tunepool.db'}", connections=1)
    try:
        with store.read() as tx:
            return next(seen for seen in list_newest(tx, 10) if seen.job_id == job.id)
    finally:
        store.close()


def _judge(said: dict[int, float], seen: Observation, steps: int) -> list[str]:
    off = []
    for part in PARTS:
        reached = [finish for step, finish in sorted(said.items()) if step >= part * steps]
        late = (reached[0] - seen.ended_at.timestamp()) / seen.run_seconds if reached else 0.0
        off.append(f"{100 * late:+.1f} %" if reached else "not seen")
    return off


def _compare(job: Job, seen: Observation) -> list[str]:
    memory, seconds = _predicted(job, "memory"), _predicted(job, "time")
    real = seen.run_seconds
    return [
        f"{memory['total_bytes'] / 2**20:.0f} MiB",
        f"{seen.peak_device_bytes / 2**20:.0f} MiB",
        f"{seconds['seconds']:.1f} s",
        f"{seconds['low_seconds']:.0f} to {seconds['high_seconds']:.0f} s",
        seconds["confidence"],
        f"{real:.1f} s",
        f"{100 * (real / seconds['seconds'] - 1):+.1f} %",
    ]


def _predicted(job: Job, what: str) -> dict[str, Any]:
    assert job.estimate is not None
    found: dict[str, Any] = job.estimate[what]["cpu"]
    return found


def _describe(seen: Observation) -> list[str]:
    """`between` is what no phase accounts for."""
    cells = [f"{seen.predicted_seconds.get(t, 0.0):.2f} / {seen.measured_seconds(t):.2f}" for t in PHASES_OF_TERM]
    between = seen.run_seconds - sum(seen.phase_seconds.values())
    return [*cells, f"{between:.2f}", f"{seen.run_seconds:.2f}"]


if __name__ == "__main__":
    main()
