"""How wrong estimates were: counted by hand."""

import pytest

from orchestrator.services.accuracy import measure_accuracy
from tests.support.launchers import GIB
from tests.support.observed import make_observation


def test_errors_are_of_what_users_were_told() -> None:
    told = [make_observation(ratio=ratio, speed=ratio, told_bytes=2 * GIB) for ratio in (1.8, 2.0, 2.5)]
    found = measure_accuracy(told)
    assert (found.attempts, found.memory.count, found.memory.over, found.out_of_memory) == (3, 3, 1, 0)
    assert found.memory.median == pytest.approx(0.1, abs=1e-6)
    assert found.memory.worst == pytest.approx(0.25, abs=1e-6)
    assert found.memory_uncalibrated.worst == pytest.approx(1.5, abs=1e-6)
    assert found.time.worst == pytest.approx(1.5)
    assert found.time.p95 == pytest.approx(1.45)
    assert found.since == told[0].ended_at


def test_failures_to_fit_are_counted_and_have_no_error() -> None:
    died = make_observation(ratio=0.3, succeeded=False, out_of_memory=True)
    resumed = make_observation(resumed=True)
    cancelled = make_observation(ratio=0.3, succeeded=False, steps=1)
    found = measure_accuracy([died, resumed, cancelled])
    assert (found.attempts, found.out_of_memory, found.memory.count, found.time.count) == (3, 1, 0, 0)
    assert (found.time.median, found.time.p95, found.time.worst) == (None, None, None)


def test_without_attempts_nothing_is_claimed() -> None:
    found = measure_accuracy([])
    assert (found.attempts, found.since, found.memory.median) == (0, None, None)
