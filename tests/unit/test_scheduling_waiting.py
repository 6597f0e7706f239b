"""Each waiting job has one reason, the first that holds it back, in words that name devices, teams and moments."""

import pytest

from orchestrator.domain.scheduling.actions import PREEMPTION_REASONS, PreemptionRule, Wait, WaitCode
from orchestrator.domain.scheduling.hints import HintCode
from orchestrator.domain.scheduling.sentences import hint_sentence, wait_sentence
from tests.support.pools import Pool, device, footprint, queued, team

DAY = 1_795_600_800.0  # 25 November 2026, 10:00 UTC


def _pool(*teams: object, devices: int = 1) -> Pool:
    pool = Pool(now=DAY)
    pool.set_devices(*(device(f"n/{number}") for number in range(devices)))
    pool.set_teams(*(teams or (team("a"), team("b"))))  # type: ignore[arg-type]
    return pool


def _why(pool: Pool, job_id: str) -> Wait:
    wait = pool.planner.explain(job_id, pool.now)
    assert wait is not None
    return wait


def _fill(pool: Pool, gib: int = 20, hours: float = 2) -> None:
    pool.submit(queued("runs", gib, hours * 3_600, team_id="b", queued_at=DAY))
    pool.decide()


def test_a_job_that_starts_has_no_reason() -> None:
    pool = _pool()
    pool.submit(queued("job"))
    assert pool.planner.explain("job", pool.now) is None


def test_an_unknown_job_is_an_error() -> None:
    with pytest.raises(KeyError):
        _pool().planner.explain("nobody", DAY)


def test_held_and_not_before() -> None:
    pool = _pool()
    pool.submit(queued("held", is_held=True), queued("later", not_before_at=DAY + 7_200))
    assert wait_sentence(_why(pool, "held")) == "It is held until somebody releases it."
    assert wait_sentence(_why(pool, "later")) == "It may not start before 25 Nov 12:00 UTC."


def test_an_array_at_its_limit() -> None:
    pool = _pool()
    pool.submit(*(queued(f"j{n}", 5, array_id="sweep", array_limit=1, queued_at=float(n)) for n in range(2)))
    pool.decide()
    wait = _why(pool, "j1")
    assert wait.code is WaitCode.ARRAY_LIMIT
    assert wait_sentence(wait) == "Its array runs at most 1 at once, and as many run."


def test_no_device_is_large_enough() -> None:
    pool = _pool()
    pool.submit(
        queued("large", 30), queued("pair", 10, replicas=2), queued("typed", 5, device_types=frozenset({"h100"}))
    )
    assert wait_sentence(_why(pool, "large")) == (
        "It needs 30.0 GiB on one device; the largest in the pool has 24.0 GiB."
    )
    assert wait_sentence(_why(pool, "pair")) == (
        "It needs 2 devices of 10.0 GiB on one node; there are not that many in the pool."
    )
    assert wait_sentence(_why(pool, "typed")) == "No device of type h100 can run it now."


def test_over_the_ceiling() -> None:
    pool = _pool(team("a", ceiling_micros=1_000_000), devices=2)
    pool.submit(queued("first", 18, queued_at=1.0), queued("second", 12, queued_at=2.0))
    pool.decide()
    wait = _why(pool, "second")
    assert wait.code is WaitCode.OVER_CEILING
    assert wait_sentence(wait) == "Team A has 0.75 devices of at most 1.00 devices; this job needs 0.50 devices more."


def test_over_the_budget() -> None:
    pool = _pool(team("a", budget_left_usd_micros=2_500_000))
    pool.submit(queued("dear", footprints=(footprint(5, cost=3_000_000),)))
    wait = _why(pool, "dear")
    assert wait.code is WaitCode.OVER_BUDGET
    assert wait_sentence(wait) == "Team A has 2.50 USD left in this period; this job may cost 3.00 USD."


def test_room_is_being_made() -> None:
    pool = _pool(team("a", 1), team("b"))
    _fill(pool)
    pool.now += 3_600
    pool.submit(queued("owner", 20, queued_at=pool.now))
    before = _why(pool, "owner")
    pool.decide()
    assert before == _why(pool, "owner")
    assert wait_sentence(before) == "Room is being made on n/0 as runs saves and leaves."


def test_pinned_devices_of_its_own_and_of_others() -> None:
    pool = _pool()
    _fill(pool, 14)
    pool.submit(queued("holder", 20, queued_at=DAY))
    pool.now += 3_600
    pool.submit(queued("long", 8, 30_000, queued_at=pool.now))
    assert wait_sentence(_why(pool, "holder")) == (
        "Next on n/0, expected at 25 Nov 12:00 UTC; those devices are kept for it."
    )
    assert wait_sentence(_why(pool, "long")) == (
        "There is room on n/0, but it is kept for holder until 25 Nov 12:00 UTC, and this job would end later."
    )


def test_behind_others_and_first_in_line() -> None:
    pool = _pool()
    _fill(pool)
    pool.submit(queued("first", 20, queued_at=DAY), queued("second", 20, queued_at=DAY + 1))
    assert wait_sentence(_why(pool, "first")) == "First in line; room on n/0 is expected at 25 Nov 12:00 UTC."
    assert wait_sentence(_why(pool, "second")) == "1 job waits ahead of it for the same devices (class normal)."


def test_every_rule_of_preemption_has_a_reason() -> None:
    assert set(PREEMPTION_REASONS) == set(PreemptionRule)


def test_hints_say_what_would_let_it_start() -> None:
    pool = _pool(devices=0)
    pool.set_devices(device("n/0", 24), device("m/0", 48))
    _fill(pool, 14)
    pool.submit(queued("job", 20, device_types=frozenset({"g24"}), queued_at=DAY))
    hints = {hint.code: hint_sentence(hint) for hint in pool.planner.would_start_if("job", pool.now)}
    assert hints == {
        HintCode.OTHER_TYPE: "It would start now if it could also use g48.",
        HintCode.SMALLER: "It would start now on n/0 if it needed at most 10.0 GiB per device.",
        HintCode.AFTER_JOB: "It would start after runs on n/0, expected at 25 Nov 12:00 UTC.",
    }


def test_hints_for_gangs_and_short_jobs() -> None:
    pool = _pool(devices=0)
    pool.set_devices(device("m/0"), device("n/0"))
    pool.submit(queued("pair", 20, replicas=2))
    (hint,) = [hint for hint in pool.planner.would_start_if("pair", pool.now) if hint.code is HintCode.SEVERAL_NODES]
    assert hint_sentence(hint) == "It would start now if its devices could be on several nodes."
    pool = _pool()
    _fill(pool, 14)
    pool.submit(queued("holder", 20, queued_at=DAY))
    pool.now += 3_600
    pool.submit(queued("long", 8, 30_000, queued_at=pool.now))
    (hint,) = [hint for hint in pool.planner.would_start_if("long", pool.now) if hint.code is HintCode.SHORTER]
    assert hint_sentence(hint) == "It would start now on n/0 if it took at most 60 minutes."
