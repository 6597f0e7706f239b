"""What a figure was measured on: printed above every table."""

import os
import platform
import subprocess
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def describe_machine() -> str:
    """One line: processor, cores, memory, Python, commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    memory_gib = psutil.virtual_memory().total / 1024**3
    return (
        f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, "
        f"commit {commit or 'unknown'}"
    )


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table under the machine's line."""
    print(f"\n### {title}\n\n{describe_machine()}\n")
    print("| " + " | ".join(header) + " |")
    print("| " + " | ".join("---" for _ in header) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0..1) of the sorted values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]
