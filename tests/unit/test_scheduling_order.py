"""Who goes first: class, guarantee, share, priority, users in turn, rank."""

from orchestrator.domain.scheduling.facts import Hold, PriorityClass, RunningJob
from tests.support.pools import GIB, Pool, device, queued, team


def _pool(*teams: object) -> Pool:
    pool = Pool(now=1_000.0)
    pool.set_devices(device("n/0"))
    pool.set_teams(*teams)  # type: ignore[arg-type]
    return pool


def _order(pool: Pool) -> list[str]:
    return pool.planner.order(pool.now)


def test_classes_come_first() -> None:
    pool = _pool(team("a", 10))
    pool.submit(
        queued("idle", priority_class=PriorityClass.IDLE, queued_at=1.0),
        queued("normal", queued_at=2.0),
        queued("urgent", priority_class=PriorityClass.URGENT, queued_at=3.0),
    )
    assert _order(pool) == ["urgent", "normal", "idle"]


def test_urgent_beyond_the_guarantee_counts_as_normal() -> None:
    pool = _pool(team("a"), team("b"))
    pool.submit(
        queued("early", team_id="a", queued_at=1.0),
        queued("urgent", team_id="a", priority_class=PriorityClass.URGENT, queued_at=2.0),
    )
    assert _order(pool) == ["early", "urgent"]


def test_a_team_within_its_guarantee_goes_before_one_that_borrows() -> None:
    pool = _pool(team("a"), team("b", 1, usage=1e6, usage_at=1_000.0))
    pool.submit(queued("borrows", queued_at=1.0), queued("within", team_id="b", queued_at=2.0))
    assert _order(pool) == ["within", "borrows"]


def test_the_team_that_used_less_per_weight_goes_first() -> None:
    pool = _pool(team("a", usage=9_000.0, usage_at=1_000.0, weight=3.0), team("b", usage=4_000.0, usage_at=1_000.0))
    pool.submit(queued("light", team_id="b", queued_at=1.0), queued("heavy", team_id="a", queued_at=2.0))
    assert _order(pool) == ["heavy", "light"]


def test_usage_fades_with_its_half_life() -> None:
    day = 86_400.0
    pool = _pool(team("a", usage=3_000.0), team("b", usage=1_000.0, usage_at=2 * day))
    pool.now = 2 * day
    pool.submit(queued("faded", team_id="a", queued_at=2.0), queued("fresh", team_id="b", queued_at=1.0))
    assert _order(pool) == ["faded", "fresh"]


def test_a_burst_is_charged_before_it_has_run() -> None:
    """Both teams are even, so their jobs alternate, whatever the order of submission."""
    pool = _pool(team("a"), team("b"))
    pool.submit(*(queued(f"a{n}", team_id="a", queued_at=float(n)) for n in range(3)))
    pool.submit(*(queued(f"b{n}", team_id="b", queued_at=float(10 + n)) for n in range(3)))
    assert _order(pool) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_what_runs_counts_from_its_first_moment() -> None:
    pool = _pool(team("a"), team("b"))
    pool.put_running(
        RunningJob(
            job_id="runs",
            team_id="a",
            user_id="u",
            priority_class=PriorityClass.NORMAL,
            holds=(Hold(device_id="n/0", bytes=GIB),),
            started_at=pool.now,
            expected_end_at=pool.now + 600,
            saved_at=pool.now,
        )
    )
    pool.submit(queued("again", team_id="a", queued_at=1.0), queued("other", team_id="b", queued_at=2.0))
    assert _order(pool) == ["other", "again"]


def test_within_a_team_priority_then_users_in_turn_then_rank() -> None:
    pool = _pool(team("a"))
    pool.submit(
        queued("u1", user_id="u", queued_at=1.0),
        queued("u2", user_id="u", queued_at=2.0),
        queued("u3", user_id="u", queued_at=3.0, rank=0.5),
        queued("v1", user_id="v", queued_at=9.0),
        queued("first", user_id="w", queued_at=10.0, priority=1),
    )
    assert _order(pool) == ["first", "u3", "v1", "u1", "u2"]
    assert pool.planner.position("v1", pool.now) == 3


def test_held_and_later_jobs_have_no_place() -> None:
    pool = _pool(team("a"))
    pool.submit(queued("held", is_held=True), queued("later", not_before_at=2_000.0), queued("ready"))
    assert _order(pool) == ["ready"]
    assert pool.planner.position("held", pool.now) is None


def test_equal_jobs_go_by_their_id() -> None:
    pool = _pool(team("a"))
    pool.submit(queued("y"), queued("x"))
    assert _order(pool) == ["x", "y"]
