"""What is foretold of starts: the same decision, run forward within bounds."""

import pytest

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.decide import Jobs
from orchestrator.domain.scheduling.facts import Hold, RunningJob
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.forecast import forecast_starts, repeat_arrivals
from orchestrator.simulation.foresight import Foretold
from orchestrator.simulation.lora_mix import make_jobs, mixed_pool
from orchestrator.simulation.workload import Timing
from tests.support.pools import GIB, device, queued

POOL = [device("n0/0")]


def _running(ends_at: float) -> RunningJob:
    return RunningJob(
        job_id="r",
        team_id="a",
        user_id="u",
        priority_class=PriorityClass.NORMAL,
        holds=(Hold(device_id="n0/0", bytes=24 * GIB),),
        started_at=0.0,
        expected_end_at=ends_at,
        saved_at=0.0,
    )


def test_jobs_start_one_after_another_when_the_running_one_ends() -> None:
    jobs = Jobs(queued=[queued("x", gib=20, seconds=300), queued("y", gib=20, queued_at=1)], running=[_running(1000)])
    assert forecast_starts(POOL, [], jobs, 400) == {"x": 1000, "y": 1300}


def test_a_late_job_is_given_a_tenth_of_its_time_more() -> None:
    jobs = Jobs(queued=[queued("x", gib=20)], running=[_running(1000)])
    assert forecast_starts(POOL, [], jobs, 2000) == {"x": 2200}


def test_who_cannot_start_has_no_estimate() -> None:
    jobs = Jobs(queued=[queued("x", gib=20, is_held=True), queued("z", gib=40)], running=[_running(1000)])
    assert forecast_starts(POOL, [], jobs, 400) == {}


def test_the_work_is_bounded() -> None:
    waiting = [queued(f"j{number:03d}", gib=20, seconds=100, queued_at=number / 1000) for number in range(50)]
    found = forecast_starts(POOL, [], Jobs(queued=waiting), 1, most_passes=10)
    assert 0 < len(found) <= 10
    assert found["j000"] == 1


def test_what_came_lately_comes_again() -> None:
    came = [queued("old", queued_at=0), queued("new", queued_at=90)]
    again = repeat_arrivals(came, 100, window_seconds=50, times=2)
    assert [(job.job_id, job.queued_at) for job in again] == [("new+1", 140), ("new+2", 190)]


def test_jobs_to_come_may_go_ahead() -> None:
    jobs = Jobs(queued=[queued("low", gib=20, queued_at=400)], running=[_running(700)])
    urgent = queued("high", gib=20, seconds=500, priority=5, queued_at=500)
    assert forecast_starts(POOL, [], jobs, 400, arrivals=[urgent])["low"] == 1200


@pytest.mark.parametrize(
    ("told", "came", "is_right"), [(100, 149, True), (100, 151, False), (151, 100, False), (149, 100, True)]
)
def test_within_a_factor(told: float, came: float, is_right: bool) -> None:
    found = Foretold(job_id="x", told_seconds=told, came_seconds=came, told_run_seconds=0, ended_seconds=came)
    assert found.is_within(1.5) is found.ends_within(1.5) is is_right


def test_an_end_is_judged_with_what_the_job_takes() -> None:
    found = Foretold(job_id="x", told_seconds=100, came_seconds=300, told_run_seconds=800, ended_seconds=1_200)
    assert not found.is_within(1.5)
    assert found.ends_within(1.5)
    assert not found.ends_within(1.2)


def test_with_exact_durations_and_nobody_else_to_come_the_start_is_right() -> None:
    pool = mixed_pool()
    jobs = make_jobs(pool, count=150, load=40.0, seed=3, most_factor=1.0)
    simulation = Simulation(Planner(), pool, [], timing=Timing(checkpoint_seconds=float("inf")))
    simulation.add(jobs)
    simulation.run(until=jobs[-1].queued.queued_at)
    now, facts = simulation.now, simulation.facts()
    told = forecast_starts(*facts, now)
    records = simulation.run()
    waits = [
        Foretold(
            job_id=job.job_id,
            told_seconds=told[job.job_id] - now,
            came_seconds=records.jobs[job.job_id].intervals[0].started_at - now,
            told_run_seconds=0.0,
            ended_seconds=0.0,
        )
        for job in facts[2].queued
    ]
    assert len(waits) > 20
    assert sum(each.is_within(1.1) for each in waits) >= 0.9 * len(waits)
