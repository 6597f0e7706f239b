"""What is measured of this machine: a real measurement, held within what any machine that runs this can be."""

from resource import RUSAGE_SELF, getrusage

import pytest
import torch

from orchestrator.domain.speed import DeviceSpeed
from workers import speed

LARGEST_KEPT_BYTES = 31 * 2**20
"""Just below the highest threshold that malloc gives itself."""
LARGEST_PAGE_BYTES = 2 * 2**20


def test_a_cpu_is_measured() -> None:
    found = speed.measure_cpu(start_seconds=3.0)
    assert DeviceSpeed.model_validate_json(found.model_dump_json()) == found
    assert (found.kind, found.start_seconds, found.measured) == ("cpu", 3.0, True)
    assert 1e8 < found.single_flops_per_second < 1e14
    assert 1e8 < found.half_flops_per_second < 1e14
    assert 1e6 < found.elements_per_second < 1e12
    assert 10 < found.modules_per_second < 1e7


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: calls take 9, 8, … 1 s."""
    now = 0.0
    left = iter([0.0] * speed.WARM_UPS + [float(n) for n in range(speed.FEWEST_REPEATS, 0, -1)])

    def work() -> None:
        nonlocal now
        now += next(left)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    assert speed._time(work) == 1.0
    assert next(left, None) is None, "slow calls are repeated no more than the fewest times"


def test_passes_are_over_fresh_memory_whatever_was_freed_before() -> None:
    """malloc keeps blocks for reuse once larger ones were freed; over such blocks a pass is nine times as fast."""
    given = torch.randn(speed.PASSED_ELEMENTS, dtype=torch.bfloat16)
    for _ in range(4):
        torch.empty(LARGEST_KEPT_BYTES, dtype=torch.uint8)
    written = 2 * 4 * given.numel() + 2 * 2 * given.numel()
    for _ in range(8):
        before = getrusage(RUSAGE_SELF).ru_minflt
        speed._pass(given)
        assert getrusage(RUSAGE_SELF).ru_minflt - before >= written / LARGEST_PAGE_BYTES
