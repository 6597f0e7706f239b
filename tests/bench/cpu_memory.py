"""Predicted and measured memory of training processes on this CPU: `python -m tests.bench.cpu_memory [--first N]`."""

import argparse
import tempfile
from pathlib import Path

from tests.bench.machine import print_table
from tests.support.cpu_peaks import CASES, make_case, measure_peak_bytes, predict_peak_bytes
from tests.support.models import real_model_folder

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=len(CASES), help="so many of the cases")
    asked = parser.parse_args()
    model, rows = real_model_folder(), []
    for case in CASES[: asked.first]:
        plan = make_case(**case)
        with tempfile.TemporaryDirectory() as folder:
            measured = measure_peak_bytes(Path(folder), model, plan)
        predicted = predict_peak_bytes(model, plan)
        figures = [f"{predicted / MIB:.0f}", f"{measured / MIB:.0f}", f"{predicted / measured - 1:+.1%}"]
        rows.append([*(str(value) for value in case.values()), *figures])
    header = ["weights", "rows", "tokens", "checkpointing", "predicted MiB", "measured MiB", "off by"]
    print_table("Peak memory of a training process on a CPU, SmolLM2-135M, LoRA of rank 16", header, rows)


if __name__ == "__main__":
    main()
