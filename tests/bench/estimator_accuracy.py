"""Predicted against measured: `python -m tests.bench.estimator_accuracy --data FILE`, in JSON lines.

A line holds a `request` of the estimator's batch interface and what was `measured`: `gib` (2^30 bytes; null for
out_of_memory), `kind`, `gpu`, `source`, `confidence`. The file is not ours and does not belong to the project.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

from workers.estimator.__main__ import answer_line

FIGURES = {
    "max_allocated": "peak_allocated_bytes",
    "max_reserved": "peak_reserved_bytes",
    "nvidia_smi": "peak_device_bytes",
    "out_of_memory": "peak_device_bytes",
}
DEVICE_GIB = {"A100-80GB": 79.15, "H100-80GB": 79.1, "A100-40GB": 39.4, "L40S": 44.4, "RTX 4090": 23.6, "T4": 14.7}
"""What torch reports as the memory of these devices; the data file's notes give the first."""
GIB = 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    rows = [json.loads(line) for line in parser.parse_args().data.read_text().splitlines() if line.strip()]
    warnings.simplefilter("ignore")
    errors: dict[str, list[float]] = defaultdict(list)
    missed = 0
    for row in sorted(rows, key=lambda row: (row["measured"]["source"], row["measured"]["kind"])):
        answer = answer_line(json.dumps(row["request"]))
        missed += _print_row(row, answer, errors)
    _print_totals(errors, missed)
    return 0


def _print_row(row: dict[str, Any], answer: dict[str, Any], errors: dict[str, list[float]]) -> int:
    """One line of the table; returns 1 for an out-of-memory case that was said to fit, or a row without an answer."""
    measured, name = row["measured"], row["request"]["id"]
    kind = measured["kind"]
    if "error" in answer:
        print(f"{name:24} {kind:14} error: {answer['error']}")
        return 1
    predicted = answer[FIGURES[kind]] / GIB
    if kind == "out_of_memory":
        device = next((gib for gpu, gib in DEVICE_GIB.items() if gpu in measured["gpu"]), None)
        verdict = "no such device" if device is None else "does not fit" if predicted > device else "SAID TO FIT"
        print(f"{name:24} {kind:14} {predicted:8.2f} on {device} GiB: {verdict:18} {answer['seconds']:6.3f} s")
        return int(verdict == "SAID TO FIT")
    error = predicted / measured["gib"] - 1
    if measured.get("confidence") == "high":
        errors[kind].append(error)
    print(
        f"{name:24} {kind:14} {predicted:8.2f} against {measured['gib']:8.2f} GiB {error:+7.1%} "
        f"{answer['seconds']:6.3f} s  {measured['source']}"
    )
    return 0


def _print_totals(errors: dict[str, list[float]], missed: int) -> None:
    for kind, values in errors.items():
        sizes = sorted(abs(value) for value in values)
        high = sizes[min(len(sizes) - 1, round(0.95 * (len(sizes) - 1)))]
        print(
            f"{kind}: {len(values)} rows of high confidence, absolute error median {statistics.median(sizes):.2%}, "
            f"95th percentile {high:.2%}; signed from {min(values):+.1%} to {max(values):+.1%}, "
            f"median {statistics.median(values):+.1%}"
        )
    print(f"out-of-memory cases said to fit, and rows without an answer: {missed}")


if __name__ == "__main__":
    sys.exit(main())
