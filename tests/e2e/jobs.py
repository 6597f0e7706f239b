"""Jobs for the end-to-end tests: a tiny model, a small chat file, and specs that run for as long as a test needs."""

import json
from pathlib import Path
from typing import Any

from api.client import Tunepool

MODEL = "tiny"


def write_rows(path: Path, rows: int = 24) -> Path:
    """A chat file whose rows differ, so that data order shows in the losses."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is {n} and {n + 1}?"},
                    {"role": "assistant", "content": f"It is {2 * n + 1}, as {n} times two and one."},
                ]
            }
        )
        for n in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_spec(client: Tunepool, file_id: str, *, steps: int, **training: Any) -> dict[str, Any]:
    """A job of so many optimizer steps of two rows each."""
    return {
        "model": MODEL,
        "training_file": file_id,
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": 2}}},
        "lora": {"r": 4, "dropout": 0.1},
        "training": {"max_steps": steps, "micro_batch_size": 2, **training},
    }
