"""The virtual clock: what happens when, what the scheduler is told of it, and what is recorded."""

from dataclasses import replace

import pytest

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.records import Records
from orchestrator.simulation.shares import due_shares, hours
from orchestrator.simulation.workload import NodeLoss, SimulatedJob, Timing
from tests.support.pools import device, queued, team

HOUR = 3600.0
TIMING = Timing(stop_seconds=30.0, resume_seconds=60.0, checkpoint_seconds=600.0, tick_seconds=60.0)


def _job(job_id: str, seconds: float, *, gib: float = 20, told: float | None = None, **changes: object) -> SimulatedJob:
    facts = queued(job_id, gib=gib, seconds=seconds if told is None else told, **changes)
    return SimulatedJob(queued=facts, seconds_by_type={"*": seconds})


def _run(
    jobs: list[SimulatedJob], *, devices: int = 1, teams: tuple[object, ...] = (), rules: Rules | None = None
) -> Records:
    pool = [device(f"n{number}/0") for number in range(devices)]
    simulation = Simulation(Planner(rules), pool, teams, timing=TIMING)  # type: ignore[arg-type]
    simulation.add(jobs)
    return simulation.run()


def test_jobs_run_one_after_another_where_only_one_fits() -> None:
    records = _run([_job("a", 100), _job("b", 50)])
    assert records.jobs["a"].ended_at == 100
    assert records.jobs["b"].intervals[0].started_at == 100
    assert records.jobs["b"].wait_seconds == 100
    assert records.jobs["b"].completion_seconds == 150


def test_the_same_input_gives_the_same_run() -> None:
    jobs = [_job(f"j{number}", 100 + 7 * number, gib=5 + number % 9, queued_at=3.0 * number) for number in range(60)]
    first, second = _run(jobs, devices=2), _run(list(reversed(jobs)), devices=2)
    assert first.jobs == second.jobs


def test_a_wrong_estimate_changes_what_is_planned_not_what_happens() -> None:
    records = _run([_job("a", 500, told=10)])
    assert records.jobs["a"].ended_at == 500


def test_a_preempted_job_goes_on_from_where_it_was_and_pays_for_coming_back() -> None:
    idle = _job("idle", 2 * HOUR, priority_class=PriorityClass.IDLE)
    normal = _job("normal", HOUR, queued_at=HOUR)
    records = _run([idle, normal])
    victim = records.jobs["idle"]
    assert victim.preemptions == [PreemptionRule.CLASS]
    assert victim.lost_seconds == 60
    assert records.jobs["normal"].intervals[0].started_at == HOUR + 30
    assert victim.ended_at == pytest.approx(HOUR + 30 + HOUR + (HOUR - 30) + 60)


def test_a_lost_node_costs_what_came_after_the_newest_checkpoint() -> None:
    simulation = Simulation(Planner(), [device("n0/0"), device("n1/0", gib=16)], [], timing=TIMING)
    simulation.add([_job("a", HOUR)], [NodeLoss(node_name="n0", down_at=1000, up_at=2000)])
    job = simulation.run().jobs["a"]
    assert [each.started_at for each in job.intervals] == [0, 2000]
    assert job.lost_seconds == pytest.approx(400 + 60)
    assert job.ended_at == pytest.approx(2000 + 60 + HOUR - 600)
    assert not job.preemptions


def test_it_goes_on_from_jobs_that_run_already() -> None:
    before = Simulation(Planner(), [device("n0/0")], [], timing=TIMING)
    before.add([_job("a", 1000), _job("b", 100)])
    before.run(until=400, most_passes=1)
    pool, teams, jobs = before.facts()
    assert [each.job_id for each in jobs.running] == ["a"]
    assert [each.job_id for each in jobs.queued] == ["b"]
    after = Simulation(Planner(), pool, teams, timing=TIMING, starts_at=400)
    after.add_running(replace(_job("a", 0), seconds_by_type={"*": 600.0}), jobs.running[0])
    after.add_waiting(_job("b", 100))
    records = after.run()
    assert records.jobs["b"].intervals[0].started_at == 1000
    assert records.jobs["b"].ended_at == 1100


def test_a_team_that_comes_back_has_its_guarantee_within_the_grace() -> None:
    """Aim: within grace and start time, however much others have borrowed."""
    rules = Rules()
    teams = (team("a", 2), team("b", 0))
    borrowed = [_job(f"b{number}", 20 * HOUR, team_id="b") for number in range(4)]
    back = [_job(f"a{number}", HOUR, team_id="a", queued_at=5 * HOUR) for number in range(2)]
    records = _run([*borrowed, *back], devices=4, teams=teams, rules=rules)
    for job in back:
        waited = records.jobs[job.queued.job_id].intervals[0].started_at - job.queued.queued_at
        assert waited <= rules.least_grace_seconds
    assert sum(len(records.jobs[job.queued.job_id].preemptions) for job in borrowed) == 2


def test_borrowers_get_their_weights_over_a_day_of_contention() -> None:
    """Aim: within 5 per cent, over any 24 hours in which all of them always want more."""
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    teams = tuple(team(name, 0, weight=weight) for name, weight in weights.items())
    jobs = [
        _job(f"{name}{number}", 1200 + 37 * (number % 50), team_id=name, queued_at=number / 10)
        for name in weights
        for number in range(500)
    ]
    pool = [device(f"n{number}/0") for number in range(8)]
    simulation = Simulation(Planner(), pool, teams, timing=TIMING)
    simulation.add(jobs)
    records = simulation.run(until=32 * HOUR)
    steps = hours(records)
    for begins in range(2, 8):
        had = {name: sum(steps[begins + hour].had.get(name, 0.0) for hour in range(24)) for name in weights}
        for name, weight in weights.items():
            assert had[name] / sum(had.values()) == pytest.approx(weight / 4, rel=0.05)


def test_due_shares_go_by_weight_and_never_beyond_what_is_wanted() -> None:
    due = due_shares({"a": 1.0, "b": 100.0, "c": 100.0}, {"c": 2.0}, 10.0)
    assert due == {"a": pytest.approx(1.0), "b": pytest.approx(3.0), "c": pytest.approx(6.0)}
