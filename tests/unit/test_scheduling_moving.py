"""Smaller jobs move out of a long waiter's way when they fit elsewhere at once."""

from dataclasses import replace

import pytest

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import Decision, PreemptionRule
from orchestrator.domain.scheduling.facts import Rules
from tests.support.pools import Pool, device, queued, team

HOUR = 3600.0


def _crowded(gib: float = 20, *, filler: float = 18, **changes: object) -> Pool:
    """`small`, of so many GiB, has come onto the device of 80 GiB while the one of 24 GiB was full; that is free now,
    and `large` has waited for more than ten minutes."""
    pool = Pool(now=0.0)
    pool.set_devices(device("a/0", 24, weight_micros=300_000), device("b/0", 80))
    pool.set_teams(team("a"), team("b"))
    pool.submit(queued("filler", filler))
    pool.decide()
    pool.submit(queued("small", gib, 20 * HOUR, team_id="b", **changes))
    pool.decide()
    pool.finish("filler")
    pool.submit(queued("large", 70, HOUR))
    pool.now = 700.0
    return pool


def _moved(decision: Decision) -> list[tuple[str, str | None]]:
    return [(each.job_id, each.for_job_id) for each in decision.preemptions if each.rule is PreemptionRule.MOVE]


def test_a_small_job_leaves_for_a_long_waiter_and_goes_on_where_it_fits() -> None:
    pool = _crowded()
    assert pool.running["small"].holds[0].device_id == "b/0"
    decision = pool.decide()
    assert _moved(decision) == [("small", "large")]
    assert [(lock.job_id, lock.device_id) for lock in decision.locks] == [("large", "b/0")]
    assert decision.pins == ()
    pool.now += 30
    pool.finish("small")
    placed = {start.job_id: start.holds[0].device_id for start in pool.decide().starts}
    assert placed == {"large": "b/0", "small": "a/0"}


def test_it_stays_for_one_that_has_not_waited_long() -> None:
    pool = _crowded()
    pool.now = 600.0
    assert _moved(pool.decide()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"gib": 30, "filler": 18},
        {"checkpointable": False},
        {"device_types": frozenset({"g80"})},
    ],
    ids=["no room elsewhere", "no checkpoints", "allowed on its type only"],
)
def test_it_stays_where_it_could_not_go_on(changes: dict) -> None:
    pool = _crowded(**changes)
    assert pool.running["small"].holds[0].device_id == "b/0"
    decision = pool.decide()
    assert _moved(decision) == []
    assert [pin.job_id for pin in decision.pins] == ["large"]


@pytest.mark.parametrize("terms", [{"ceiling_micros": 250_000}, {"budget_left_usd_micros": 9}])
def test_it_stays_where_the_other_device_counts_more_than_its_team_may_have(terms: dict) -> None:
    pool = _crowded()
    pool.set_teams(team("b", **terms))
    assert _moved(pool.decide()) == [("small", "large")]
    pool = _crowded()
    pool.set_teams(team("b", **terms))
    pool.set_devices(device("a/0", 24, weight_micros=310_000))
    assert _moved(pool.decide()) == []


def test_what_a_team_has_within_its_guarantee_stays() -> None:
    pool = _crowded()
    pool.set_teams(team("b", 1))
    assert _moved(pool.decide()) == []


def test_a_job_of_a_better_class_stays() -> None:
    pool = _crowded(priority_class=PriorityClass.URGENT)
    assert _moved(pool.decide()) == []


def test_nobody_moves_when_the_room_comes_free_as_soon_by_itself() -> None:
    pool = _crowded()
    pool.put_running(replace(pool.running["small"], expected_end_at=pool.now + 50))
    assert _moved(pool.decide()) == []


def test_nobody_moves_without_the_rule() -> None:
    pool = _crowded()
    still = Pool(now=pool.now, rules=Rules(moves=False), devices=pool.devices, teams=pool.teams)
    for job in pool.running.values():
        still.put_running(job)
    still.submit(*pool.queued.values())
    assert _moved(still.decide()) == []
    assert _moved(pool.decide()) == [("small", "large")]


def test_no_job_moves_for_one_that_is_not_larger() -> None:
    pool = Pool(now=0.0)
    pool.set_devices(device("b/0", 48), device("c/0", 80))
    pool.set_teams(team("a"))
    pool.submit(queued("first", 44, 20 * HOUR, device_types=frozenset({"g48"})))
    pool.submit(queued("next", 44, HOUR, device_types=frozenset({"g48"})))
    pool.decide()
    pool.put_running(replace(pool.running["first"], device_types=None))
    pool.now = 700.0
    assert _moved(pool.decide()) == []


def test_a_gang_gets_one_node_with_the_least_to_move() -> None:
    pool = Pool(now=0.0)
    pool.set_devices(*(device(f"{node}/{number}", 80) for node in "mn" for number in range(2)), device("s/0", 24))
    pool.set_teams(team("a"), team("b"))
    pool.submit(queued("s", 20, device_types=frozenset({"g24"})))
    pool.submit(*(queued(f"big{n}", 70, 30 * HOUR, queued_at=n, checkpointable=False) for n in (1, 2)))
    pool.decide()
    small = queued("small", 20, 20 * HOUR, queued_at=3.0, team_id="b")
    other = queued("other", 50, 2_000, queued_at=4.0, team_id="b")
    pool.submit(small, other)
    pool.decide()
    pool.finish("s")
    pool.submit(queued("gang", 70, HOUR, replicas=2, queued_at=5.0))
    pool.finish("other")
    pool.now = 700.0
    decision = pool.decide()
    assert _moved(decision) == [("small", "gang")]
    assert {lock.device_id for lock in decision.locks} == {"n/0", "n/1"}
