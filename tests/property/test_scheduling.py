"""Laws of the scheduling decision on busy pools: thousands of them in `make test-all`, fewer in `make check`."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.scheduling.placement_policies import choose_device, choose_gang, device_key
from orchestrator.domain.scheduling.rooms import Ask, Rooms
from orchestrator.domain.scheduling.state import expected_departure
from tests.support.histories import busy_days
from tests.support.pool_laws import assert_lawful, find_left_waiting, find_unreclaimed
from tests.support.pools import GIB, Pool, device, footprint, queued, team

seeds = st.integers(0, 2**32)


def _live(seed: int, steps: int) -> None:
    """Every decision of one history is lawful, is the one of a fresh start, and leaves nobody out."""
    random = Random(seed)
    started_at: dict[str, float] = {}
    evicted: dict[tuple[str, str], float] = {}
    for pool in busy_days(random, steps):
        decision = pool.planner.decide(pool.now)
        assert decision == pool.from_scratch(random)
        assert_lawful(pool, decision)
        before = dict(pool.running)
        pool.apply(decision)
        assert not find_left_waiting(pool)
        if pool.rules.preemption:
            assert not find_unreclaimed(pool, before)
        for start in decision.starts:
            started_at[start.job_id] = pool.now
        for each in decision.preemptions:
            if each.for_job_id is not None:
                back = evicted.get((each.for_job_id, each.job_id))
                assert back is None or pool.now - started_at[each.job_id] >= pool.rules.least_run_seconds
                evicted[each.job_id, each.for_job_id] = pool.now


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_every_decision_of_a_busy_pool_is_lawful(seed: int) -> None:
    _live(seed, 12)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@settings(max_examples=2_000, deadline=None)
@given(seed=seeds)
def test_every_decision_of_thousands_of_busy_pools_is_lawful(seed: int) -> None:
    _live(seed, 20)


def _crowd(random: Random, pool: Pool, count: int) -> None:
    """Jobs of equal standing that keep their estimates, so that only the order and the pins decide."""
    for _ in range(count):
        seconds = random.choice([100.0, 1_500.0, 6_000.0])
        pool.submit(
            queued(
                f"j{len(pool.asked):04}",
                team_id=random.choice("ab"),
                user_id=random.choice("uv"),
                queued_at=pool.now,
                footprints=(footprint(random.choice([4, 9, 15, 22, 40]), seconds),),
                replicas=random.choice([1, 1, 1, 2]),
            )
        )


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_a_pin_never_moves_later_and_no_wait_is_endless(seed: int) -> None:
    """Under a stream of later jobs each holder starts at the latest when its first pin said."""
    random = Random(seed)
    pool = Pool(now=0.0, rules=Rules(most_holders=random.randint(1, 4)))
    for number in range(random.randint(2, 6)):
        pool.set_devices(device(f"m{number // 2}/{number}", random.choice([24, 48])))
    pool.set_teams(team("a"), team("b"))
    promised: dict[str, float] = {}
    _crowd(random, pool, 10)
    for _ in range(120):
        decision = pool.decide()
        started = {start.job_id for start in decision.starts}
        for job_id in promised.keys() & started:
            assert pool.now <= promised.pop(job_id)
        for job_id, at in promised.items():
            assert job_id in pool.queued
            is_cleared = any(lock.job_id == job_id for lock in decision.locks)
            assert is_cleared or [pin for pin in decision.pins if pin.job_id == job_id and pin.at <= at]
        for pin in decision.pins:
            promised[pin.job_id] = min(pin.at, promised.get(pin.job_id, pin.at))
        _crowd(random, pool, random.randint(0, 2))
        _pass_to_next_end(random, pool)


def _pass_to_next_end(random: Random, pool: Pool) -> None:
    """On to the next end of a job, or a little earlier; jobs end exactly when they were expected to, and leave when
    they have to."""
    soonest = min(map(expected_departure, pool.running.values()), default=pool.now + 60)
    pool.now = min(soonest, pool.now + random.choice([30.0, 700.0, 1e9]))
    for job in [job for job in pool.running.values() if expected_departure(job) <= pool.now]:
        pool.finish(job.job_id)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_the_index_finds_the_device_that_a_look_at_all_of_them_finds(seed: int) -> None:
    random = Random(seed)
    devices = [
        device(f"m{number // 3}/{number}", random.choice([24, 24, 48]), held_bytes=random.choice([0, 0, 5, 9]) * GIB)
        for number in range(random.randint(1, 12))
    ]
    rooms = Rooms(devices)
    for _ in range(20):
        each = rooms.devices[random.choice(sorted(rooms.devices))]
        if random.random() < 0.2:
            rooms.open(each.device_id, is_open=not each.is_open)
        else:
            rooms.take(each.device_id, random.randint(-each.usable_bytes + each.free_bytes, max(each.free_bytes, 0)))
        ask = Ask(
            bytes_by_kind={"cuda": random.choice([1, 5, 10, 20, 24, 40]) * GIB},
            exclusive=random.random() < 0.2,
            device_types=frozenset({"g24"}) if random.random() < 0.2 else None,
            warm_nodes=frozenset({"m0"}) if random.random() < 0.3 else frozenset(),
            offers={random.choice(sorted(rooms.devices)): GIB} if random.random() < 0.2 else {},
        )
        best = min(rooms.fitting(ask), key=lambda room: device_key(room, ask), default=None)
        assert choose_device(rooms, ask) is best
        pair = choose_gang(rooms, replace(ask, replicas=2))
        fitting = Counter((room.device_type, room.node.name) for room in rooms.fitting(ask))
        assert (pair is not None) == (max(fitting.values(), default=0) >= 2)
