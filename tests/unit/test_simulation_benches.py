"""The benchmarks that are judged by others run from the command line on small files, and say what they promise."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.traces import write_nodes, write_philly, write_pods

ROOT = Path(__file__).resolve().parents[2]


def _bench(name: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}", *map(str, arguments), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_packing(tmp_path: Path) -> None:
    files = ("--nodes", write_nodes(tmp_path), "--pods", write_pods(tmp_path))
    found = _bench("packing", *files, "--policy", "fgd", "--seeds", 2, "--arrive", 1.3)
    assert set(found["allocated"]) == {"90", "100", "130"}
    assert [run["seed"] for run in found["runs"]] == [42, 43]
    assert 50 < found["allocated"]["100"]["mean"] <= 100


@pytest.mark.parametrize("policy", ["tunepool", "easy", "las"])
def test_queueing(tmp_path: Path, policy: str) -> None:
    trace = write_philly(tmp_path, days=2, per_day=80)
    window = ("--from-day", 0, "--to-day", 1, "--gpus", 8)
    found = _bench("queueing", "--trace", trace, *window, "--policy", policy)
    assert found["jobs"] == found["jobs_done"] > 0
    assert set(found["wait_hours"]) == {"mean", "p50", "p95", "p99", "max"}
    assert set(found["share_deficit_by_team"]) == {"a", "b", "c"}
    assert sum(size["jobs"] for size in found["by_size"].values()) == found["jobs"]
    assert found["preemption"]["count"] == sum(found["preemption"]["by_rule"].values())


def test_churn() -> None:
    found = _bench("churn", "--load", 0.75, "--seeds", 1, "--jobs", 120)
    assert found["mean"]["wait_minutes_mean"] >= 0
    assert found["mean"]["passes"] >= 120
