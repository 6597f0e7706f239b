"""Small made-up traces in the formats of the public ones: the same seed, the same files."""

import csv
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

SIZES = (320, 470, 650, 810, 1000, 1000)


def write_nodes(folder: Path) -> Path:
    """Six nodes with two kinds of GPUs, and one without."""
    rows: list[list[object]] = [["sn", "cpu_milli", "memory_mib", "gpu", "model"]]
    rows += [[f"node-{number}", 64_000, 262_144, 2, "T4"] for number in range(4)]
    rows += [[f"node-{number}", 96_000, 393_216, 8, "G2"] for number in range(4, 6)]
    rows.append(["node-6", 32_000, 131_072, 0, ""])
    return _write(folder / "nodes.csv", rows)


def write_pods(folder: Path, *, count: int = 120) -> Path:
    """Tasks for them: without GPUs, with a share of one, with several; some tied to a model."""
    source = Random(7)
    rows: list[list[object]] = [
        ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "qos", "creation_time", "deletion_time"]
    ]
    for number in range(count):
        gpus = source.choice([0, 1, 1, 1, 1, 1, 2])
        milli = 0 if not gpus else 1000 if gpus > 1 else source.choice(SIZES)
        spec = "T4|G2" if number % 5 == 0 else ""
        at = source.randrange(86_400)
        rows.append([f"pod-{number}", 4000, 8192, gpus, milli, spec, "LS", at, at + source.randrange(60, 9000)])
    return _write(folder / "pods.csv", rows)


def write_philly(folder: Path, *, days: int, per_day: int) -> Path:
    """Jobs of three clusters, most with one GPU, some with 4 or 8."""
    source = Random(11)
    first = datetime(2017, 9, 4, 10, 30, 41)  # noqa: DTZ001 - the trace names no zone
    moments = sorted(source.uniform(0, 86_400 * days) for _ in range(days * per_day))
    moments[0] = 0.0
    rows: list[list[object]] = [["timestamp", "duration", "num_gpus", "gpu_time", "cluster"]]
    for at in moments:
        seconds, gpus = round(source.lognormvariate(7.5, 1.2)), source.choice([1, 1, 1, 1, 1, 2, 4, 8])
        moment = (first + timedelta(seconds=at)).strftime("%Y-%m-%d %H:%M:%S")
        rows.append([moment, float(seconds), gpus, float(seconds * gpus), source.choice("abc")])
    return _write(folder / "jobs.csv", rows)


def _write(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
