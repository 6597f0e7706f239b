"""Backfill: a long waiter keeps the devices that it will get first; others may use them as long as it need not wait."""

from orchestrator.domain.scheduling.facts import PriorityClass, Rules
from tests.support.pools import Pool, device, queued, team


def _pool(devices: int = 2, **rules: object) -> Pool:
    """Devices of 24 GiB; on each runs a job of 14 GiB that ends at 10,000 s and later."""
    pool = Pool(now=0.0, rules=Rules(**rules))  # type: ignore[arg-type]
    pool.set_devices(*(device(f"n/{number}") for number in range(devices)))
    pool.set_teams(team("a"), team("b"))
    pool.submit(*(queued(f"runs{n}", 14, 10_000.0 + n, team_id="b") for n in range(devices)))
    pool.decide()
    return pool


def _wait_long(pool: Pool, *jobs: object) -> None:
    pool.submit(*jobs)  # type: ignore[arg-type]
    pool.now += 700
    pool.decide()


def test_a_long_waiter_pins_the_device_that_is_free_for_it_first() -> None:
    pool = _pool()
    pool.submit(queued("large", 20))
    pool.now = 600.0
    assert pool.decide().pins == ()
    pool.now = 601.0
    (pin,) = pool.decide().pins
    assert (pin.job_id, pin.device_id, pin.at) == ("large", "n/0", 10_000.0)


def test_a_later_job_uses_a_pinned_device_only_if_it_ends_before() -> None:
    pool = _pool()
    _wait_long(pool, queued("large", 20))
    pool.submit(queued("long", 8, 9_301, queued_at=1.0), queued("also long", 8, 9_301, queued_at=2.0))
    pool.submit(queued("short", 8, 9_300, queued_at=3.0))
    placed = {start.job_id: start.holds[0].device_id for start in pool.decide().starts}
    assert placed == {"long": "n/1", "short": "n/0"}


def test_what_is_spare_beside_the_holder_is_open_to_all() -> None:
    pool = _pool(devices=1)
    _wait_long(pool, queued("holder", 15))
    pool.submit(queued("fits beside", 9, 50_000, queued_at=1.0), queued("next", 9, 50_000, queued_at=2.0))
    assert [start.job_id for start in pool.decide().starts] == ["fits beside"]


def test_idle_jobs_with_checkpoints_may_use_it_since_they_can_be_asked_to_leave() -> None:
    pool = _pool(devices=1)
    _wait_long(pool, queued("holder", 20))
    idle = {"priority_class": PriorityClass.IDLE, "seconds": 90_000}
    pool.submit(
        queued("stays", 8, checkpointable=False, queued_at=1.0, **idle), queued("leaves", 8, queued_at=2.0, **idle)
    )
    assert [start.job_id for start in pool.decide().starts] == ["leaves"]


def test_the_holder_starts_when_its_device_is_free_and_lets_go_of_it() -> None:
    pool = _pool()
    _wait_long(pool, queued("holder", 20))
    pool.now = 10_000.0
    pool.finish("runs0")
    pool.submit(queued("younger", 24, team_id="b"))
    decision = pool.decide()
    assert [start.job_id for start in decision.starts] == ["holder"]
    assert "holder" not in {pin.job_id for pin in decision.pins}


def test_a_holder_keeps_its_device_while_others_come_and_go() -> None:
    pool = _pool()
    _wait_long(pool, queued("holder", 20))
    for number in range(5):
        pool.now += 900
        pool.submit(queued(f"later{number}", 20, team_id="b", queued_at=pool.now))
        assert ("holder", "n/0", 10_000.0) in {(pin.job_id, pin.device_id, pin.at) for pin in pool.decide().pins}


def test_a_holder_moves_when_its_device_slips_and_another_is_sooner() -> None:
    """Its first device is five minutes late; the other, which somebody with a guarantee took, is free in 100 s."""
    pool = _pool()
    _wait_long(pool, queued("holder", 20))
    pool.now = 10_300.0
    pool.finish("runs1")
    pool.set_teams(team("c", 1))
    pool.submit(queued("in between", 18, 100.0, team_id="c"))
    assert [start.job_id for start in pool.decide().starts] == ["in between"]
    pool.now = 10_310.0
    (pin,) = pool.decide().pins
    assert (pin.device_id, pin.at) == ("n/1", 10_400.0)


def test_there_are_no_more_holders_than_the_rules_allow() -> None:
    pool = _pool(devices=3, most_holders=2)
    _wait_long(pool, *(queued(f"large{n}", 20, queued_at=float(n)) for n in range(3)))
    assert {pin.job_id for pin in pool.pins} == {"large0", "large1"}


def test_a_gang_pins_all_its_devices_for_the_same_moment() -> None:
    pool = _pool()
    _wait_long(pool, queued("pair", 20, replicas=2))
    assert [(pin.device_id, pin.at) for pin in pool.pins] == [("n/0", 10_001.0), ("n/1", 10_001.0)]


def test_a_job_within_its_guarantee_is_not_held_up_by_a_holder_that_borrows() -> None:
    pool = _pool(devices=1)
    _wait_long(pool, queued("holder", 20))
    pool.set_teams(team("c", 1))
    pool.submit(queued("within", 8, 90_000, team_id="c"))
    assert [start.job_id for start in pool.decide().starts] == ["within"]
