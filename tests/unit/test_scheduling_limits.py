"""What a team may not exceed: ceiling, budget, limits of an array; and what holds a single job."""

from dataclasses import replace

from orchestrator.domain.scheduling.facts import PriorityClass
from tests.support.pools import Pool, device, footprint, queued, team


def _pool(terms: object, devices: int = 4) -> Pool:
    pool = Pool(now=1_000.0)
    pool.set_devices(*(device(f"n/{number}") for number in range(devices)))
    pool.set_teams(terms)  # type: ignore[arg-type]
    return pool


def _starts(pool: Pool) -> list[str]:
    return [start.job_id for start in pool.decide().starts]


def test_a_ceiling_is_kept_within_one_pass() -> None:
    pool = _pool(team("a", ceiling_micros=2_000_000))
    pool.submit(*(queued(f"j{n}", 24, queued_at=float(n)) for n in range(3)))
    assert _starts(pool) == ["j0", "j1"]


def test_a_budget_is_shared_by_all_starts_of_one_pass() -> None:
    pool = _pool(team("a", budget_left_usd_micros=10))
    pool.submit(*(queued(f"j{n}", queued_at=float(n), footprints=(footprint(5, cost=4),)) for n in range(4)))
    assert _starts(pool) == ["j0", "j1"]


def test_a_cheaper_job_passes_one_that_the_budget_does_not_cover() -> None:
    pool = _pool(team("a", budget_left_usd_micros=10))
    pool.submit(queued("dear", queued_at=1.0, footprints=(footprint(5, cost=11),)))
    pool.submit(queued("cheap", queued_at=2.0, footprints=(footprint(5, cost=10),)))
    assert _starts(pool) == ["cheap"]


def test_only_device_types_within_the_budget_are_used() -> None:
    pool = _pool(team("a", budget_left_usd_micros=10), devices=0)
    pool.set_devices(device("n/0", 24), device("n/1", 48))
    way = replace(footprint(5), cost_usd_micros={"g24": 11, "*": 9})
    pool.submit(queued("job", footprints=(way,)))
    (start,) = pool.decide().starts
    assert start.holds[0].device_id == "n/1"


def test_jobs_of_an_exhausted_team_may_run_as_idle() -> None:
    terms = team("a", 4, budget_left_usd_micros=3, idle_when_exhausted=True)
    pool = _pool(terms)
    pool.submit(queued("over", queued_at=1.0, footprints=(footprint(5, cost=4),)))
    pool.submit(queued("paid", queued_at=2.0, footprints=(footprint(5, cost=3),)))
    starts = {start.job_id: start.runs_as for start in pool.decide().starts}
    assert starts == {"paid": PriorityClass.NORMAL, "over": PriorityClass.IDLE}


def test_an_array_runs_no_more_than_its_limit_at_once() -> None:
    pool = _pool(team("a"))
    pool.submit(*(queued(f"j{n}", 5, queued_at=float(n), array_id="sweep", array_limit=2) for n in range(4)))
    assert _starts(pool) == ["j0", "j1"]
    assert _starts(pool) == []
    pool.finish("j0")
    assert _starts(pool) == ["j2"]


def test_held_jobs_wait_for_their_release_and_later_ones_for_their_moment() -> None:
    pool = _pool(team("a"))
    pool.submit(queued("held", 5, is_held=True), queued("later", 5, not_before_at=1_500.0))
    assert _starts(pool) == []
    pool.submit(replace(pool.queued["held"], is_held=False))
    assert _starts(pool) == ["held"]
    pool.now = 1_500.0
    assert _starts(pool) == ["later"]


def test_a_job_of_a_team_without_terms_borrows() -> None:
    pool = _pool(team("a"))
    pool.submit(queued("stranger", 5, team_id="unheard"))
    (start,) = pool.planner.decide(pool.now).starts
    assert start.is_borrowing


def test_a_start_within_the_guarantee_does_not_borrow() -> None:
    pool = _pool(team("a", 1))
    pool.submit(queued("within", 24, queued_at=1.0), queued("beyond", 24, queued_at=2.0))
    assert [(start.job_id, start.is_borrowing) for start in pool.decide().starts] == [
        ("within", False),
        ("beyond", True),
    ]
