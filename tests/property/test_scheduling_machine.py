"""Any history of a pool: whatever happens, every decision keeps the laws and is the one that the facts alone give."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Rules, SharedDevice
from tests.support.pool_laws import assert_lawful, find_left_waiting, find_unreclaimed
from tests.support.pools import GIB, Pool, device, footprint, queued, team

TEAMS = ("a", "b", "c")
SIZES = (24, 48, 80)
seconds_ahead = st.sampled_from([1.0, 60.0, 300.0, 900.0, 4_000.0, 100_000.0])


@st.composite
def footprints(draw: st.DrawFn) -> tuple:
    gib = draw(st.integers(1, 90))
    seconds = draw(st.sampled_from([120.0, 1_000.0, 20_000.0]))
    cost = draw(st.none() | st.integers(0, 5))
    first = footprint(gib, seconds, cost=cost)
    if not draw(st.booleans()):
        return (first,)
    return first, footprint(max(1, gib // 2), seconds * 2, cost=cost, name="micro-batch 1")


jobs = st.fixed_dictionaries(
    {
        "team_id": st.sampled_from(TEAMS),
        "user_id": st.sampled_from(["u", "v"]),
        "priority_class": st.sampled_from(list(PriorityClass)),
        "priority": st.integers(-1, 1),
        "footprints": footprints(),
        "replicas": st.sampled_from([1, 1, 1, 2, 3]),
        "same_node": st.booleans(),
        "exclusive": st.sampled_from([False, False, False, True]),
        "device_types": st.none() | st.frozensets(st.sampled_from([f"g{size}" for size in SIZES]), min_size=1),
        "warm_nodes": st.frozensets(st.sampled_from(["m0", "m1"])),
        "checkpointable": st.booleans(),
        "is_held": st.sampled_from([False, False, False, True]),
        "attained_seconds": st.sampled_from([0.0, 5_000.0, 50_000.0]),
    }
)
rules_ = st.builds(
    Rules,
    most_holders=st.integers(0, 3),
    borrower_fairness=st.booleans(),
    preemption=st.sampled_from([True, True, False]),
    turns_hours=st.sampled_from([(), (1.0, 8.0)]),
    turns_spare_larger=st.booleans(),
    moves=st.sampled_from([True, True, False]),
)


class PoolMachine(RuleBasedStateMachine):
    """Moments only move forward. A job that was asked to leave may run on, end by itself, or leave."""

    @initialize(rules=rules_, sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=6))
    def build(self, rules: Rules, sizes: list[int]) -> None:
        self.pool = Pool(rules=rules, now=1_000_000.0)
        devices = [
            device(f"m{number // 3}/{number}", gib, weight_micros=gib * 40_000) for number, gib in enumerate(sizes)
        ]
        self.pool.set_devices(*devices)
        self.pool.set_teams(*(team(team_id) for team_id in TEAMS))
        self.count = 0

    @rule(given=jobs, later=st.sampled_from([0.0, 0.0, 500.0]), array=st.none() | st.integers(1, 2))
    def submit(self, given: dict, later: float, array: int | None) -> None:
        self.count += 1
        in_array = {} if array is None else {"array_id": f"array{array}", "array_limit": array}
        job = queued(
            f"j{self.count}", queued_at=self.pool.now, not_before_at=self.pool.now + later, **in_array, **given
        )
        self.pool.submit(job)

    @precondition(lambda self: self.pool.queued)
    @rule(pick=st.randoms(use_true_random=False), held=st.booleans(), rank=st.none() | st.integers(0, 9))
    def change_queued(self, pick: Random, held: bool, rank: int | None) -> None:
        job = self.pool.queued[pick.choice(sorted(self.pool.queued))]
        self.pool.submit(replace(job, is_held=held, rank=None if rank is None else float(rank)))

    @precondition(lambda self: self.pool.queued)
    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: Random) -> None:
        self.pool.cancel(pick.choice(sorted(self.pool.queued)))

    @precondition(lambda self: self.pool.running)
    @rule(pick=st.randoms(use_true_random=False))
    def finish(self, pick: Random) -> None:
        self.pool.finish(pick.choice(sorted(self.pool.running)))

    @precondition(lambda self: self.pool.running)
    @rule(pick=st.randoms(use_true_random=False), seconds=st.integers(0, 30_000))
    def estimate_anew(self, pick: Random, seconds: int) -> None:
        job = self.pool.running[pick.choice(sorted(self.pool.running))]
        self.pool.put_running(replace(job, expected_end_at=self.pool.now + seconds, saved_at=self.pool.now))

    @rule(seconds=seconds_ahead)
    def wait(self, seconds: float) -> None:
        self.pool.now += seconds

    @rule(
        team_id=st.sampled_from(TEAMS),
        guarantee=st.integers(0, 4),
        ceiling=st.none() | st.integers(1, 6),
        weight=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        budget=st.none() | st.integers(0, 12),
        usage=st.sampled_from([0.0, 10_000.0]),
    )
    def change_team(self, team_id: str, **given: object) -> None:
        ceiling = given["ceiling"]
        changed = team(
            team_id,
            given["guarantee"],
            ceiling_micros=None if ceiling is None else ceiling * 1_000_000,
            weight=given["weight"],
            budget_left_usd_micros=given["budget"],
            usage=given["usage"],
            usage_at=self.pool.now,
            idle_when_exhausted=given["usage"] == 0.0,
        )
        self.pool.set_teams(changed)

    @rule(
        pick=st.randoms(use_true_random=False),
        schedulable=st.booleans(),
        draining=st.booleans(),
        held=st.integers(0, 9),
    )
    def change_device(self, pick: Random, schedulable: bool, draining: bool, held: int) -> None:
        each = self.pool.devices[pick.choice(sorted(self.pool.devices))]
        self.pool.set_devices(
            replace(each, schedulable=schedulable and not draining, draining=draining, held_bytes=held * GIB)
        )

    @rule(gib=st.sampled_from(SIZES), node=st.sampled_from(["m0", "m1", "m2"]))
    def add_device(self, gib: int, node: str) -> None:
        added: SharedDevice = device(f"{node}/{len(self.pool.devices)}", gib, weight_micros=gib * 40_000)
        self.pool.set_devices(added)

    @rule(order=st.randoms(use_true_random=False))
    def decide(self, order: Random) -> None:
        pool = self.pool
        decision = pool.planner.decide(pool.now)
        assert decision == pool.planner.decide(pool.now)
        assert decision == pool.from_scratch(order)
        assert_lawful(pool, decision)
        before = dict(pool.running)
        pool.apply(decision)
        assert not find_left_waiting(pool)
        if pool.rules.preemption:
            assert not find_unreclaimed(pool, before)

    @precondition(lambda self: self.pool.queued)
    @rule()
    def explain(self) -> None:
        """Every waiting job has one reason or starts, and asking changes nothing."""
        pool = self.pool
        waits = pool.planner.explain_all(sorted(pool.queued), pool.now)
        decision = pool.planner.decide(pool.now)
        starting = {start.job_id for start in decision.starts}
        assert {job_id for job_id, wait in waits.items() if wait is None} == starting
        order = pool.planner.order(pool.now)
        placed = {job.job_id for job in pool.queued.values() if not job.is_held and job.not_before_at <= pool.now}
        assert sorted(order) == sorted(placed)


class ManyPoolsMachine(PoolMachine):
    """The same, for as long as `make test-all` has time."""


for machine, histories in ((PoolMachine, 40), (ManyPoolsMachine, 1_500)):
    machine.TestCase.settings = settings(
        max_examples=histories,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

TestAnyHistory = PoolMachine.TestCase


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestManyHistories(ManyPoolsMachine.TestCase):  # type: ignore[misc, name-defined]
    """Thousands of pools."""
