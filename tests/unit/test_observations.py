"""What is made of an ended attempt: the raw prediction beside the peak that it is of."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain import outcomes
from orchestrator.domain.estimate import MemoryEstimate, Method, calibrate_memory
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.observations import ESTIMATORS, Observation, name_kind, observe_attempt
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.pace import Pace
from tests.support.facts import NOW, START, make_attempt, make_job
from tests.support.launchers import GIB
from tests.support.plans import make_plan

RAW = MemoryEstimate(
    total_bytes=4 * GIB,
    breakdown={"base_weights": 3 * GIB, "runtime": GIB},
    allocated_bytes=3 * GIB,
    reserved_bytes=3 * GIB,
    device_bytes=4 * GIB,
    method="closed_form",
)
TIME = {"seconds": 300.0, "steps": 10, "evaluations": 4, "uncalibrated": {"training": 100.0, "evaluating": 8.0}}


def estimate_of(memory: MemoryEstimate) -> dict[str, Any]:
    found = {"total_bytes": memory.total_bytes, "breakdown": memory.breakdown, "method": memory.method}
    return {"memory": {"cpu": found, "cuda": found}, "time": {"cpu": TIME, "cuda": TIME}}


def observe(end: AttemptEnd, *, estimate: dict[str, Any] | None = None, **attempt: Any) -> Observation:
    job = make_job(plan=make_plan(), model_name="smol", estimate=estimate_of(RAW) if estimate is None else estimate)
    ended = make_attempt(**{"ended_at": NOW, "device_type": "rtx", **attempt})
    found = observe_attempt(job, ended, end, family="llama")
    assert found is not None
    return found


def test_several_devices_teach_their_memory_and_nothing_of_the_times_of_one() -> None:
    job = make_job(plan=make_plan(devices=2), model_name="smol", estimate=estimate_of(RAW))
    pace = Pace(steps=10)
    for plan, teaches in ((make_plan(), True), (make_plan(devices=2), False)):
        attempt = make_attempt(ended_at=NOW, device_type="rtx", pace=pace)
        seen = observe_attempt(replace(job, plan=plan), attempt, outcomes.succeeded(), family="llama")
        assert seen is not None
        assert seen.predicted_bytes == RAW.total_bytes
        assert bool(seen.predicted_seconds) is teaches


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.37])
def test_a_margin_that_was_learned_is_taken_off_the_prediction(factor: float) -> None:
    told = calibrate_memory(RAW, factor)
    assert told.total_bytes == sum(told.breakdown.values()) == pytest.approx(factor * RAW.total_bytes)
    seen = observe(outcomes.succeeded(), estimate=estimate_of(told))
    assert (seen.predicted_bytes, seen.told_bytes) == (RAW.total_bytes, told.total_bytes)


def test_a_prediction_is_of_the_way_in_which_it_was_made() -> None:
    methods: tuple[Method, Method] = ("closed_form", "traced")
    made = [observe(outcomes.succeeded(), estimate=estimate_of(replace(RAW, method=method))) for method in methods]
    assert [seen.estimator for seen in made] == [ESTIMATORS["closed_form"], ESTIMATORS["traced"]]
    assert made[0].estimator != made[1].estimator


def test_on_a_gpu_the_measure_is_the_attempts_own_with_its_context() -> None:
    peaks = {"peak_allocated_bytes": GIB, "peak_reserved_bytes": 2 * GIB}
    shared = observe(outcomes.succeeded(), device_id="n/cuda:0", peak_device_bytes=20 * GIB, **peaks)
    assert shared.measured_bytes == 3 * GIB, "others use the device too"
    alone = observe(outcomes.succeeded(), device_id="n/cuda:0", peak_device_bytes=int(2.5 * GIB), **peaks)
    assert alone.measured_bytes == int(2.5 * GIB)
    assert observe(outcomes.succeeded(), device_id="n/cuda:0", peak_device_bytes=9 * GIB).measured_bytes == 0
    assert observe(outcomes.succeeded(), peak_device_bytes=GIB).measured_bytes == GIB, "a CPU: the resident set"


def test_a_part_of_the_steps_is_compared_with_a_part_of_the_prediction() -> None:
    pace = Pace(first_unix=START.timestamp() + 7, steps=5, entered={"evaluating": 3})
    seen = observe(outcomes.interrupted(), pace=pace)
    assert seen.predicted_seconds == {"training": 50.0, "evaluating": 6.0}
    assert seen.phase_seconds == {"launching": 7.0}
    assert (seen.run_seconds, seen.told_seconds) == (100.0, 300.0)


def test_clocks_that_differ_make_no_absurd_start() -> None:
    ahead = Pace(first_unix=(START - timedelta(days=1)).timestamp())
    behind = Pace(first_unix=(START + timedelta(days=400)).timestamp())
    assert observe(outcomes.succeeded(), pace=ahead).phase_seconds == {"launching": 0.0}
    assert observe(outcomes.succeeded(), pace=behind).phase_seconds == {"launching": 3600.0}


def test_how_it_ended_is_kept() -> None:
    died = observe(outcomes.failed(FailureKind.OUT_OF_MEMORY, "Full."), resumed_from_step=3)
    assert (died.out_of_memory, died.succeeded, died.resumed) == (True, False, True)
    assert observe(outcomes.lost("Gone.")).out_of_memory is False


def test_a_job_without_a_prediction_is_observed_all_the_same() -> None:
    seen = observe(outcomes.succeeded(), estimate={})
    assert (seen.predicted_bytes, seen.told_seconds, seen.predicted_seconds) == (None, None, {})


def test_nothing_is_learned_of_what_never_ran() -> None:
    job, end = make_job(plan=make_plan()), outcomes.cancelled()
    assert observe_attempt(job, make_attempt(started_at=None, ended_at=NOW), end, family="") is None
    assert observe_attempt(make_job(), make_attempt(ended_at=NOW), end, family="") is None


@pytest.mark.parametrize(("tokens", "bucket"), [(1, 64), (64, 64), (65, 128), (2048, 2048), (2049, 4096)])
def test_lengths_are_told_apart_by_powers_of_two(tokens: int, bucket: int) -> None:
    kind = name_kind(make_plan(max_seq_tokens=tokens), base_model="m", family="f", device_type="d")
    assert kind.length_tokens == bucket
