"""Laws of what a pool lacks, on busy pools and against plain arithmetic on uniform ones."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.decide import Jobs, build_planner
from orchestrator.domain.scheduling.demand import MOST_DEVICES, SOON_SECONDS, Lack
from tests.support.histories import busy_days
from tests.support.pools import GIB, Pool, device, queued, team

seeds = st.integers(0, 2**32)


def _afresh(random: Random, pool: Pool) -> tuple[Lack, ...]:
    devices, queue = list(pool.devices.values()), list(pool.queued.values())
    random.shuffle(devices)
    random.shuffle(queue)
    jobs = Jobs(queued=queue, running=pool.running.values(), locks=pool.locks, pins=pool.pins)
    return build_planner(devices, pool.teams.values(), jobs, rules=pool.rules).demand(pool.now).lacks


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_it_is_bounded_by_who_waits_for_room_and_changes_nothing(seed: int) -> None:
    random = Random(seed)
    for pool in busy_days(random, 8):
        before = pool.planner.decide(pool.now)
        pool.apply(before)
        lacks, decided = pool.planner.demand(pool.now).lacks, pool.planner.decide(pool.now)
        assert lacks == pool.planner.demand(pool.now).lacks == _afresh(random, pool)
        assert decided == pool.planner.decide(pool.now)
        out = {start.job_id for start in decided.starts} | {lock.job_id for lock in decided.locks}
        may = [
            job
            for job in pool.queued.values()
            if job.job_id not in out
            and not job.is_held
            and job.not_before_at <= pool.now
            and job.priority_class is not PriorityClass.IDLE
        ]
        assert sum(lack.devices for lack in lacks) <= min(MOST_DEVICES, sum(job.replicas for job in may))
        assert sum(lack.jobs for lack in lacks) <= len(may)
        assert all(lack.groups > 0 and lack.jobs > 0 for lack in lacks)
        sorts = {(each.device_type, each.usable_bytes) for each in pool.devices.values()}
        assert {(lack.device_type, lack.usable_bytes) for lack in lacks} <= sorts
        assert len({(lack.device_type, lack.usable_bytes, lack.together) for lack in lacks}) == len(lacks)


@settings(max_examples=60, deadline=None)
@given(
    ends=st.lists(st.floats(1, 2 * SOON_SECONDS), max_size=6),
    waiting=st.integers(0, 12),
    ceiling=st.integers(0, 16) | st.none(),
    free=st.integers(0, 3),
)
def test_on_whole_devices_it_is_what_waits_less_what_is_soon_free(
    ends: list[float], waiting: int, ceiling: int | None, free: int
) -> None:
    """One job runs on each device of the first team; the second, with a ceiling, wants whole devices."""
    pool = Pool(now=0.0)
    pool.set_teams(team("a"), team("b", ceiling_micros=None if ceiling is None else ceiling * 1_000_000))
    pool.set_devices(*(device(f"n{number}/0") for number in range(len(ends))))
    for number, seconds in enumerate(ends):
        pool.submit(queued(f"r{number}", gib=24, seconds=seconds))
    pool.decide()
    assert len(pool.running) == len(ends)
    pool.set_devices(*(device(f"m{number}/0") for number in range(free)), device("gone/0", schedulable=False))
    pool.submit(*(queued(f"w{number:02}", gib=24, team_id="b") for number in range(waiting)))
    pool.decide()
    wanted = waiting if ceiling is None else min(waiting, ceiling)
    soon = free + sum(seconds <= SOON_SECONDS for seconds in ends)
    lacking = max(0, wanted - soon)
    expected = (
        []
        if not lacking
        else [Lack(device_type="g24", usable_bytes=24 * GIB, together=1, groups=lacking, jobs=lacking)]
    )
    assert list(pool.planner.demand(pool.now).lacks) == expected
