"""Training time of a job on the stack against the same recipe by hand, in turns on one machine.

`python -m tests.bench.overhead [--steps 30] [--rounds 2]`
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from api.client import Tunepool
from tests.bench.by_hand import LORA_R, MAX_TOKENS, ROWS_PER_STEP
from tests.bench.machine import ROOT, print_table
from tests.support.models import real_model_folder
from tests.support.stack import run_stack, wait_final

TRAIN = ROOT / "examples" / "demo" / "data" / "train.jsonl"
MODEL = "smollm2"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    model = real_model_folder()
    with (
        tempfile.TemporaryDirectory(prefix="tp") as name,
        run_stack(Path(name) / "data", lease_seconds=120, torch_threads=None) as stack,
        stack.connect() as client,
    ):
        client.base_models.create(name=MODEL, location=str(model))
        file_id = client.files.create(TRAIN).id
        rows = [
            (_train_by_hand(model, asked.steps), _train_on_stack(client, file_id, asked.steps))
            for _ in range(asked.rounds)
        ]
    ratios = [stack_seconds / hand_seconds for hand_seconds, stack_seconds in rows]
    table = [
        [f"{hand:.1f} s", f"{ours:.1f} s", f"{ratio:.3f}"] for (hand, ours), ratio in zip(rows, ratios, strict=True)
    ]
    header = ["by hand", "as a job, with the whole stack beside it", "ratio"]
    print_table(
        f"Training time of {asked.steps} steps of SmolLM2-135M, NF4",
        header,
        [*table, ["", "median", f"{median(ratios):.3f}"]],
    )


def _train_by_hand(model: Path, steps: int) -> float:
    """Seconds from the end of the first step to the end of the last."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.by_hand", str(model), str(TRAIN), str(steps)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ends = json.loads(done.stdout.strip().splitlines()[-1])
    return float(ends[-1] - ends[0])


def _train_on_stack(client: Tunepool, file_id: str, steps: int) -> float:
    """As `_train_by_hand`, by the moments at which the worker reported each step."""
    job = client.jobs.create(
        model=MODEL,
        training_file=file_id,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": ROWS_PER_STEP}},
        },
        lora={"r": LORA_R},
        quantization={"type": "nf4"},
        training={
            "max_steps": steps,
            "micro_batch_size": ROWS_PER_STEP,
            "max_seq_length": MAX_TOKENS,
            "gradient_checkpointing": False,
        },
    )
    done = wait_final(client, job.id, seconds=1200)
    assert done.status == "succeeded", done.error
    ends = [point.at for point in client.jobs.metrics(job.id) if "train_loss" in point.values]
    assert len(ends) == steps
    return ends[-1] - ends[0]


if __name__ == "__main__":
    main()
