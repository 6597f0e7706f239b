"""What a pool lacks: whole devices that waiting jobs would start on now, and only those."""

from dataclasses import replace

import pytest

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.demand import MOST_DEVICES, SOON_SECONDS, Lack
from orchestrator.domain.scheduling.facts import Lock, QueuedJob, SharedDevice
from tests.support.pools import GIB, Pool, device, footprint, queued, team


def pool_of(*devices: SharedDevice, ends_in: float = 3600.0) -> Pool:
    """Full: a job runs on each device until then."""
    pool = Pool(now=1_000_000.0)
    pool.set_devices(*devices)
    pool.set_teams(team("a"), team("b"))
    for number, each in enumerate(devices):
        if each.schedulable:
            types, told = frozenset({each.device_type}), footprint(each.usable_bytes / GIB, ends_in)
            pool.submit(queued(f"r{number}", footprints=(told,), device_types=types, queued_at=0.0))
            pool.decide()
    assert not pool.queued
    return pool


def waits(pool: Pool, *jobs: QueuedJob) -> tuple[tuple[str, int, int], ...]:
    """(type, devices on one node, groups) of what is lacking once these wait."""
    pool.submit(*jobs)
    pool.decide()
    return tuple((lack.device_type, lack.together, lack.groups) for lack in pool.planner.demand(pool.now).lacks)


def test_nothing_is_lacking_when_nothing_waits_or_all_of_it_starts() -> None:
    assert waits(pool_of(device("n0/0"))) == ()
    pool = Pool(now=0.0)
    pool.set_devices(device("n0/0"))
    assert waits(pool, queued("j", gib=24)) == ()


def test_jobs_share_a_new_device_and_count_once() -> None:
    pool = pool_of(device("n0/0"))
    pool.submit(*(queued(f"j{number}", gib=8) for number in range(7)))
    pool.decide()
    whole = Lack(device_type="g24", usable_bytes=24 * GIB, together=1, groups=3, jobs=7)
    assert pool.planner.demand(pool.now).lacks == (whole,)
    assert whole.devices == 3


def test_what_is_free_soon_is_not_asked_for() -> None:
    jobs = [queued("j0", gib=24), queued("j1", gib=24)]
    assert waits(pool_of(device("n0/0"), ends_in=SOON_SECONDS - 1), *jobs) == (("g24", 1, 1),)
    assert waits(pool_of(device("n0/0"), ends_in=SOON_SECONDS + 1), *jobs) == (("g24", 1, 2),)


def test_the_sort_that_counts_for_least_is_chosen_and_only_among_those_that_may_be_added() -> None:
    small, large = device("n0/0", 24, weight_micros=300_000), device("n1/0", 80, weight_micros=1_000_000)
    pool = pool_of(small, large)
    assert waits(pool, queued("j", gib=10)) == (("g24", 1, 1),)
    assert [lack.device_type for lack in pool.planner.demand(pool.now, ["g80"]).lacks] == ["g80"]
    assert pool.planner.demand(pool.now, ["other"]).lacks == ()
    assert waits(pool, queued("big", gib=75)) == (("g24", 1, 1), ("g80", 1, 1))


def test_a_sort_whose_nodes_are_all_gone_is_known_and_one_that_was_never_there_is_not() -> None:
    gone = device("n0/0", schedulable=False)
    assert waits(pool_of(gone), queued("j", gib=24)) == (("g24", 1, 1),)
    assert waits(pool_of(gone), queued("j", gib=25)) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"is_held": True},
        {"not_before_at": 2_000_000.0},
        {"priority_class": PriorityClass.IDLE},
        {"array_id": "x", "array_limit": 0},
        {"team_id": "capped"},
        {"team_id": "broke", "footprints": (footprint(24, cost=5),)},
    ],
)
def test_who_waits_for_anything_but_room_counts_for_nothing(changes: dict[str, object]) -> None:
    pool = pool_of(device("n0/0"))
    pool.set_teams(team("capped", ceiling_micros=999_999), team("broke", budget_left_usd_micros=4))
    assert waits(pool, queued("j", gib=24, **changes)) == ()


def test_limits_count_over_all_that_waits() -> None:
    pool = pool_of(device("n0/0"))
    pool.set_teams(team("capped", ceiling_micros=2_000_000), team("poor", budget_left_usd_micros=7))
    many = [queued(f"c{number}", gib=24, team_id="capped") for number in range(5)]
    dear = [queued(f"p{number}", team_id="poor", footprints=(footprint(24, cost=3),)) for number in range(5)]
    array = [queued(f"x{number}", gib=24, array_id="x", array_limit=3) for number in range(5)]
    assert waits(pool, *many) == (("g24", 1, 2),)
    assert waits(pool, *dear) == (("g24", 1, 4),)
    assert waits(pool, *array) == (("g24", 1, 7),)


def test_a_job_that_room_is_made_for_counts_for_nothing() -> None:
    pool = pool_of(device("n0/0"))
    pool.submit(queued("j", gib=24))
    pool.planner.set_locks([Lock(device_id="n0/0", bytes=24 * GIB, job_id="j", until_at=pool.now + 60)])
    assert pool.planner.demand(pool.now).lacks == ()


def test_a_gang_is_asked_for_whole_and_on_a_node_that_can_be() -> None:
    two = [device("n0/0"), device("n0/1")]
    gang = queued("g", gib=20, replicas=2)
    assert waits(pool_of(*two), gang) == (("g24", 2, 1),)
    assert waits(pool_of(*two), replace(gang, same_node=False)) == (("g24", 1, 2),)
    assert waits(pool_of(*two), replace(gang, replicas=3)) == ()
    assert waits(pool_of(*two), replace(gang, replicas=3, same_node=False)) == (("g24", 1, 3),)


def test_no_more_is_asked_for_than_the_most_at_once() -> None:
    pool = pool_of(device("n0/0"))
    jobs = [queued(f"j{number:04}", gib=24) for number in range(MOST_DEVICES + 5)]
    assert waits(pool, *jobs) == (("g24", 1, MOST_DEVICES),)
