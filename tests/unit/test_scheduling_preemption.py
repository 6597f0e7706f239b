"""Who makes room for whom, by which rule, and what is kept for the starter meanwhile."""

from dataclasses import replace

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.facts import Hold, Rules, RunningJob
from tests.support.pools import GIB, Pool, device, queued, team

NOW = 100_000.0


def _pool(*teams: object, devices: int = 2, rules: Rules | None = None) -> Pool:
    pool = Pool(now=NOW, rules=rules or Rules())
    pool.set_devices(*(device(f"n/{number}") for number in range(devices)))
    pool.set_teams(*teams)  # type: ignore[arg-type]
    return pool


def _runs(pool: Pool, job_id: str, gib: int, number: int = 0, *, team_id: str = "b", **changes: object) -> None:
    """A job that started an hour ago on device `n/<number>` and saved a checkpoint ten minutes ago."""
    given: dict[str, object] = {
        "job_id": job_id,
        "team_id": team_id,
        "user_id": "u",
        "priority_class": PriorityClass.NORMAL,
        "holds": (Hold(device_id=f"n/{number}", bytes=gib * GIB),),
        "started_at": NOW - 3_600,
        "expected_end_at": NOW + 50_000,
        "saved_at": NOW - 600,
    }
    job = RunningJob(**{**given, **changes})  # type: ignore[arg-type]
    pool.asked[job_id] = queued(job_id, gib, team_id=team_id)
    pool.put_running(job)


def _asked(pool: Pool) -> list[tuple[str, str, str | None]]:
    return [(each.job_id, each.rule.value, each.for_job_id) for each in pool.decide().preemptions]


def test_a_guaranteed_team_reclaims_what_others_borrow() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "borrower", 20, checkpointable=False)
    pool.submit(queued("owner", 20))
    assert _asked(pool) == [("borrower", "reclaim", "owner")]


def test_nobody_reclaims_beyond_its_guarantee_or_from_within_another() -> None:
    pool = _pool(team("a", 0.5), team("b", 1), devices=1)
    _runs(pool, "runs", 20)
    pool.submit(queued("beyond", 20))
    assert _asked(pool) == []
    pool.set_teams(team("a", 1))
    assert _asked(pool) == []


def test_several_starters_do_not_reclaim_more_than_the_guarantee() -> None:
    pool = _pool(team("a", 1), team("b"))
    _runs(pool, "b0", 24, 0)
    _runs(pool, "b1", 24, 1)
    pool.submit(queued("first", 24, queued_at=1.0), queued("second", 24, queued_at=2.0))
    assert len(_asked(pool)) == 1
    pool.now += 10
    assert _asked(pool) == []


def test_a_guarantee_is_given_back_by_a_job_that_has_just_begun_when_nobody_else_can() -> None:
    pool = _pool(team("a", 2), team("b"))
    _runs(pool, "young", 22, 0, started_at=NOW - 60)
    _runs(pool, "old", 20, 1)
    pool.submit(queued("owner", 20))
    assert _asked(pool) == [("old", "reclaim", "owner")]
    pool.submit(queued("next", 20, queued_at=1.0))
    assert _asked(pool) == [("young", "reclaim", "next")]


def test_a_gang_reclaims_from_one_that_has_just_begun_only_what_it_needs() -> None:
    pool = _pool(team("a", 3), team("b"), devices=3)
    for number, minutes in enumerate((2, 50, 1)):
        _runs(pool, f"runs{number}", 22, number, started_at=NOW - 60 * minutes)
    pool.submit(queued("gang", 20, replicas=2))
    assert _asked(pool) == [("runs1", "reclaim", "gang"), ("runs2", "reclaim", "gang")]


def test_who_was_preempted_of_late_does_not_reclaim_from_one_that_has_just_begun() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "young", 20, started_at=NOW - 60)
    pool.submit(queued("owner", 20, preempted_at=(NOW - 70,)))
    assert _asked(pool) == []


def test_idle_jobs_leave_for_any_other() -> None:
    pool = _pool(team("a"), team("b", 5), devices=1)
    _runs(pool, "idle", 20, priority_class=PriorityClass.IDLE)
    pool.submit(queued("normal", 20))
    assert _asked(pool) == [("idle", "class", "normal")]


def test_a_lower_class_of_the_same_team_leaves_and_an_equal_one_stays() -> None:
    pool = _pool(team("a"), devices=1)
    _runs(pool, "normal", 20, team_id="a")
    pool.submit(queued("also normal", 20, queued_at=1.0))
    assert _asked(pool) == []
    pool.submit(queued("urgent", 20, priority_class=PriorityClass.URGENT, queued_at=2.0))
    assert _asked(pool) == [("normal", "class", "urgent")]


def test_idle_jobs_never_have_anybody_leave() -> None:
    pool = _pool(team("a", 2), team("b"), devices=1)
    _runs(pool, "borrower", 20)
    pool.submit(queued("idle", 20, priority_class=PriorityClass.IDLE))
    assert _asked(pool) == []


def test_young_uncheckpointed_and_much_preempted_jobs_stay() -> None:
    idle = {"priority_class": PriorityClass.IDLE}
    pool = _pool(team("a"), team("b"), devices=3)
    _runs(pool, "young", 20, 0, started_at=NOW - 599, **idle)
    _runs(pool, "uncheckpointed", 20, 1, checkpointable=False, **idle)
    _runs(pool, "much preempted", 20, 2, preempted_at=(NOW - 3, NOW - 2, NOW - 1), **idle)
    pool.submit(queued("normal", 20))
    assert _asked(pool) == []
    pool.now += 1
    assert _asked(pool) == [("young", "class", "normal")]


def test_the_team_furthest_above_its_share_loses_first_then_the_least_work() -> None:
    pool = _pool(team("a", 1), team("b", weight=2), team("c"), devices=4)
    _runs(pool, "b0", 24, 0)
    _runs(pool, "c0", 20, 1, team_id="c", saved_at=NOW - 900)
    _runs(pool, "c1", 20, 2, team_id="c", saved_at=NOW - 30)
    _runs(pool, "full", 24, 3, team_id="a")
    pool.set_teams(team("a", 2))
    pool.submit(queued("owner", 20))
    assert _asked(pool) == [("c1", "reclaim", "owner")]


def test_nobody_leaves_in_vain() -> None:
    """Two small jobs come first in the order, but only the large one makes enough room where the starter fits."""
    pool = _pool(team("a", 1), team("b"))
    _runs(pool, "small0", 6, 0, saved_at=NOW)
    _runs(pool, "small1", 6, 0, saved_at=NOW)
    _runs(pool, "stays", 12, 0, team_id="a")
    _runs(pool, "large", 20, 1)
    pool.set_teams(team("a", 2))
    pool.submit(queued("owner", 23))
    assert _asked(pool) == [("large", "reclaim", "owner")]


def test_a_victim_that_the_next_one_makes_needless_stays() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "small", 6, saved_at=NOW)
    _runs(pool, "large", 16)
    pool.submit(queued("owner", 18))
    assert _asked(pool) == [("large", "reclaim", "owner")]


def test_a_team_that_falls_within_its_guarantee_half_way_does_not_hide_the_right_victim() -> None:
    pool = _pool(team("a", 1), team("b", 0.7), devices=1)
    _runs(pool, "cheap", 4, saved_at=NOW)
    _runs(pool, "right", 16)
    pool.submit(queued("owner", 18))
    assert _asked(pool) == [("right", "reclaim", "owner")]


def test_a_whole_gang_leaves_for_a_gang() -> None:
    pool = _pool(team("a", 2), team("b"))
    holds = (Hold(device_id="n/0", bytes=20 * GIB), Hold(device_id="n/1", bytes=20 * GIB))
    _runs(pool, "pair", 20, holds=holds)
    pool.submit(queued("new pair", 20, replicas=2))
    assert _asked(pool) == [("pair", "reclaim", "new pair")]


def test_what_becomes_free_is_kept_for_the_starter() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "borrower", 14)
    pool.submit(queued("owner", 20, queued_at=1.0))
    (lock,) = pool.decide().locks
    assert (lock.job_id, lock.bytes, lock.until_at) == ("owner", 20 * GIB, NOW + 60 + 120)
    pool.submit(queued("small", 5, team_id="b"), queued("tiny", 4, team_id="b"))
    assert [start.job_id for start in pool.decide().starts] == ["tiny"]
    pool.now += 50
    pool.finish("borrower")
    assert [start.job_id for start in pool.decide().starts] == ["owner"]
    assert pool.locks == ()


def test_a_lock_ends_when_its_time_is_over() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "borrower", 20)
    pool.submit(queued("owner", 20))
    pool.decide()
    pool.finish("borrower")
    pool.cancel("borrower")
    pool.submit(replace(pool.queued["owner"], is_held=True))
    pool.submit(queued("other", 24, team_id="b"))
    assert "other" not in {start.job_id for start in pool.decide().starts}
    pool.now += 181
    assert "other" in {start.job_id for start in pool.decide().starts}


def test_the_grace_is_twice_the_time_of_a_checkpoint() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "borrower", 20, checkpoint_seconds=45.0)
    pool.submit(queued("owner", 20))
    (preempt,) = pool.decide().preemptions
    assert preempt.grace_seconds == 90.0


def test_the_preempted_job_does_not_come_back_for_its_place() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1)
    _runs(pool, "borrower", 20)
    pool.submit(queued("owner", 20))
    pool.decide()
    pool.now += 60
    pool.finish("borrower")
    pool.decide()
    pool.now += 700
    assert _asked(pool) == []


def test_a_team_at_its_ceiling_makes_room_among_its_own() -> None:
    pool = _pool(team("a", ceiling_micros=1_000_000), team("b"))
    _runs(pool, "idle", 24, 0, team_id="a", priority_class=PriorityClass.IDLE)
    _runs(pool, "idle of others", 24, 1, priority_class=PriorityClass.IDLE, saved_at=NOW)
    pool.submit(queued("normal", 24))
    assert _asked(pool) == [("idle", "class", "normal")]


def test_borrowers_are_evened_out_only_where_that_is_switched_on() -> None:
    for is_on, expected in ((False, []), (True, [("b0", "fairness", "job")])):
        pool = _pool(team("a"), team("b"), rules=Rules(borrower_fairness=is_on))
        _runs(pool, "b0", 24, 0, saved_at=NOW)
        _runs(pool, "b1", 24, 1)
        pool.submit(queued("job", 20))
        assert _asked(pool) == expected


def test_a_job_that_has_had_its_turn_makes_room_for_one_that_has_not() -> None:
    pool = _pool(team("a"), team("b"), devices=1, rules=Rules(turns_hours=(1.0, 8.0)))
    _runs(pool, "old", 20, attained_seconds=9 * 3_600.0)
    pool.submit(queued("new", 20, attained_seconds=0.0))
    assert _asked(pool) == [("old", "turns", "new")]


def test_draining_devices_are_left_by_jobs_with_checkpoints() -> None:
    pool = _pool(team("b"))
    _runs(pool, "moves", 10, 0)
    _runs(pool, "stays", 10, 0, checkpointable=False)
    pool.set_devices(device("n/0", schedulable=False, draining=True))
    assert _asked(pool) == [("moves", PreemptionRule.DRAIN.value, None)]
    assert _asked(pool) == []


def test_preemption_can_be_switched_off() -> None:
    pool = _pool(team("a", 1), team("b"), devices=1, rules=Rules(preemption=False))
    _runs(pool, "borrower", 20)
    pool.submit(queued("owner", 20))
    assert _asked(pool) == []
