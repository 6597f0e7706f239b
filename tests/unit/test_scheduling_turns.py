"""Turns among borrowers: by what a job has had, and for a large one by what it has waited."""

import pytest

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.decide import Jobs, build_planner, decide
from orchestrator.domain.scheduling.facts import Hold, QueuedJob, Rules, RunningJob
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.shapes import Shapes
from orchestrator.domain.scheduling.turns import Turns, backlog_seconds, count_turns
from tests.support.pools import GIB, device, queued

HOUR = 3600.0
RULES = Rules(turns_hours=(1.0, 8.0))
POOL = [device(f"n{number}/0") for number in range(8)]


def _running(job_id: str, hours: float, *, on: int, attained_hours: float = 0.0, queued_at: float = 0.0) -> RunningJob:
    """Has run for so many hours at moment 100 h, on a whole device."""
    return RunningJob(
        job_id=job_id,
        team_id="a",
        user_id="u",
        priority_class=PriorityClass.NORMAL,
        holds=(Hold(device_id=f"n{on}/0", bytes=24 * GIB),),
        started_at=(100 - hours) * HOUR,
        expected_end_at=200 * HOUR,
        saved_at=(100 - hours) * HOUR,
        queued_at=queued_at,
        attained_seconds=attained_hours * HOUR,
    )


def _waiting(**changes: object) -> Waiting:
    shapes = Shapes()
    shapes.set_pool(POOL)
    job = queued("w", gib=24, **changes)
    return Waiting(job=job, shape=shapes.claim(job), rank=0.0)


def _turn(turns: Turns, replicas: int, attained_hours: float, waited_hours: float) -> int:
    """Of a waiting job that has had so many device-hours on whole devices."""
    ran = attained_hours / replicas
    return turns.of_waiting(
        _waiting(
            replicas=replicas,
            same_node=False,
            queued_at=(100 - waited_hours - ran) * HOUR,
            attained_seconds=attained_hours * HOUR,
        )
    )


@pytest.mark.parametrize(("attained", "turn"), [(0, 0), (0.9, 0), (1, 2), (7, 2), (8, 4), (100, 4)])
def test_small_jobs_go_by_what_they_had_however_long_they_wait(attained: float, turn: int) -> None:
    turns = Turns(RULES, 100 * HOUR)
    assert _turn(turns, 1, attained, 0) == turn
    assert _turn(turns, 1, attained, 90) == turn


@pytest.mark.parametrize(("waited", "turn"), [(1, 4), (2.5, 3), (3.9, 3), (4.5, 1)])
def test_a_large_job_moves_up_as_it_waits(waited: float, turn: int) -> None:
    assert _turn(Turns(RULES, 100 * HOUR), 8, 80, waited) == turn


def test_a_backlog_asks_for_more_patience() -> None:
    day = Turns(RULES, 100 * HOUR, backlog_seconds=150 * HOUR)
    assert _turn(day, 8, 80, 14) == 3
    assert _turn(day, 8, 80, 15.5) == 1


def test_what_was_waited_is_kept_while_running() -> None:
    turns = Turns(RULES, 100 * HOUR)
    job = _running("r", 20, on=0, queued_at=50 * HOUR)
    assert turns.of_running(job, 1_000_000) == 4
    large = Turns(Rules(turns_hours=(1.0, 8.0), large_replicas=1), 100 * HOUR)
    assert large.of_running(job, 1_000_000) == 1


def test_without_turns_all_are_the_same() -> None:
    assert count_turns(Rules()) == 1
    assert _turn(Turns(Rules(), 100 * HOUR), 8, 80, 50) == 0


def test_the_backlog_is_what_waits_over_what_the_pool_can_do() -> None:
    shapes = Shapes()
    shapes.set_pool(POOL)
    jobs = [queued(f"j{number}", gib=12, seconds=HOUR) for number in range(16)]
    for job in jobs:
        shape = shapes.claim(job)
    assert backlog_seconds(shapes, 8_000_000) == pytest.approx(HOUR)
    shapes.release(shape, jobs[0])
    assert backlog_seconds(shapes, 8_000_000) == pytest.approx(HOUR * 15 / 16)


def _decide(job: QueuedJob, running: list[RunningJob]) -> tuple[list[str], list[tuple[str, PreemptionRule]]]:
    decision = decide(POOL[:1], [], Jobs(queued=[job], running=running), 100 * HOUR, rules=RULES)
    return [start.job_id for start in decision.starts], [(each.job_id, each.rule) for each in decision.preemptions]


def test_a_new_job_takes_the_place_of_one_that_had_its_turn() -> None:
    new = queued("new", gib=24, queued_at=100 * HOUR)
    assert _decide(new, [_running("old", 3, on=0)]) == ([], [("old", PreemptionRule.TURNS)])
    assert _decide(new, [_running("old", 0.5, on=0)]) == ([], [])
    assert _decide(new, [_running("old", 0.1, on=0, attained_hours=20)]) == ([], [])


def test_it_spares_a_larger_one_where_the_rules_say_so() -> None:
    running = [_running("old", 3, on=0)]
    for is_spared, gib, asked in ((False, 20, 1), (True, 20, 0), (True, 24, 1)):
        rules = Rules(turns_hours=(1.0, 8.0), turns_spare_larger=is_spared)
        jobs = Jobs(queued=[queued("new", gib=gib, queued_at=100 * HOUR)], running=running)
        assert len(decide(POOL[:1], [], jobs, 100 * HOUR, rules=rules).preemptions) == asked


def test_the_queue_shows_turns() -> None:
    jobs = [
        queued("had-much", gib=24, queued_at=0, attained_seconds=9 * HOUR),
        queued("had-little", gib=24, queued_at=1, attained_seconds=2 * HOUR),
        queued("new", gib=24, queued_at=2),
    ]
    planner = build_planner(POOL[:1], [], Jobs(queued=jobs), rules=RULES)
    assert planner.order(100 * HOUR) == ["new", "had-little", "had-much"]
