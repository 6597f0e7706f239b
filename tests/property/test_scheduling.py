"""Laws of the scheduling decision on busy pools: thousands of them in `make test-all`, fewer in `make check`."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.histories import busy_days
from tests.support.pool_laws import assert_lawful, find_left_waiting, find_unreclaimed

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


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_every_decision_of_a_busy_pool_is_lawful(seed: int) -> None:
    _live(seed, 12)


@pytest.mark.slow
@settings(max_examples=3_000, deadline=None)
@given(seed=seeds)
def test_every_decision_of_thousands_of_busy_pools_is_lawful(seed: int) -> None:
    _live(seed, 25)
