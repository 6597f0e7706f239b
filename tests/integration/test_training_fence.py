"""The fence of a training process on a CPU: what is reserved it may use; beyond that it dies alone and says why."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.protocol import DeviceGrant
from tests.support.models import ROOT
from tests.support.training import make_attempt, make_plan, make_rows, outcomes, read_reports
from workers.memory import FENCE_BYTES

MIB = 2**20
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the fence reads proc(5), and the backstop is Linux's RLIMIT_DATA"
)


def run_training(folder: Path, model: Path, *, reserved_bytes: int) -> tuple[int, dict[str, Any], int]:
    """Exit code, outcome and highest reported peak of a real training process of its own."""
    rows = make_rows(64)
    for row in rows:
        row["messages"][0]["content"] *= 3
    plan = make_plan(micro_batch_rows=64, max_seq_tokens=256, epochs=1)
    device = DeviceGrant(device_id="node/cpu:0", kind="cpu", index=0, device_bytes=2**34, reserved_bytes=reserved_bytes)
    spec = make_attempt(folder, model, plan=plan, rows=rows, device=device)
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "workers", "train", str(path)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    local = Path(spec.work_dir) / "local"
    (outcome,) = outcomes(local)
    peaks = [report["device_bytes"] for report in read_reports(local, "peak")]
    return done.returncode, outcome, max(peaks, default=0)


def test_a_process_that_stays_within_its_reservation_ends_well_and_one_beyond_dies_of_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    """The peak of a free run is reserved to the byte for the second, and far too little for the third."""
    code, outcome, peak = run_training(tmp_path / "free", tiny_model, reserved_bytes=2**33)
    assert (code, outcome["kind"]) == (0, "succeeded")
    code, outcome, _ = run_training(tmp_path / "exact", tiny_model, reserved_bytes=peak)
    assert (code, outcome["kind"]) == (0, "succeeded"), outcome
    reserved = peak - 300 * MIB
    code, outcome, died_at = run_training(tmp_path / "short", tiny_model, reserved_bytes=reserved)
    assert (code, outcome["kind"], outcome["failure"]) == (1, "failed", "out_of_memory")
    assert f"its peak was {died_at / MIB:.0f} MiB, and {reserved / MIB:.0f} MiB are reserved" in outcome["message"]
    assert reserved + FENCE_BYTES < died_at < peak
    assert "workers/recipes/sft.py" in outcome["detail"], "it says where it was"


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


PREAMBLE = """
import threading
from types import SimpleNamespace
from orchestrator.domain.protocol import DeviceGrant
from workers import memory
from workers.__main__ import report_failure

device = DeviceGrant(device_id="n/cpu:0", kind="cpu", index=0, device_bytes=2**34, reserved_bytes=1)
memory.set_backstop(device)
assert not memory.is_backstop_near()
context = SimpleNamespace(report=lambda report: print(getattr(report, "failure", report.kind)))
"""
THREADS_UNTIL_REFUSED = """
over = threading.Event()
try:
    for _ in range(10_000):
        threading.Thread(target=over.wait, daemon=True).start()
except RuntimeError as error:
    report_failure(SimpleNamespace(device=device), context, error)
over.set()
"""


def test_a_thread_that_the_backstop_refuses_is_want_of_memory() -> None:
    """Its stack counts in full when it starts, so a process full of threads meets the backstop before the fence."""
    done = run_script(THREADS_UNTIL_REFUSED)
    assert done.stdout.split() == ["peak", "out_of_memory"], done.stderr
    assert "can't start new thread" in done.stderr


ONE_BLOCK = """
import torch
try:
    torch.empty(2**30, dtype=torch.uint8)
except RuntimeError as error:
    report_failure(SimpleNamespace(device=device), context, error)
"""


def test_a_block_far_beyond_the_reservation_is_refused_before_it_is_touched() -> None:
    done = run_script(ONE_BLOCK)
    assert done.stdout.split() == ["peak", "out_of_memory"], done.stderr
    assert "you tried to allocate 1073741824 bytes" in done.stderr


def test_a_process_beyond_its_fence_ends_though_nobody_hears_of_it() -> None:
    """It holds the last word, so nobody else would end it."""
    program = """
import sys, threading
from types import SimpleNamespace
from orchestrator.domain.protocol import DeviceGrant
from workers.__main__ import end_beyond_fence

def report(fact):
    raise BrokenPipeError("nobody reads")

grant = DeviceGrant(device_id="n/cpu:0", kind="cpu", index=0, device_bytes=2**34, reserved_bytes=2**20)
arguments = (SimpleNamespace(device=grant), SimpleNamespace(report=report), threading.Lock())
threading.Thread(target=end_beyond_fence, args=arguments).start()
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 1
