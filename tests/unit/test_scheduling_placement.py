"""Where a job goes: devices, never sums; the smallest that suffices, then the tightest hole."""

import pytest

from orchestrator.domain.scheduling.actions import Start
from orchestrator.domain.scheduling.placement_policies import get_policy
from tests.support.pools import GIB, Pool, device, footprint, queued, team


def _pool(*devices: object) -> Pool:
    pool = Pool(now=1_000.0)
    pool.set_devices(*devices)  # type: ignore[arg-type]
    pool.set_teams(team("a"))
    return pool


def _places(pool: Pool) -> dict[str, list[str]]:
    return {start.job_id: [hold.device_id for hold in start.holds] for start in pool.decide().starts}


def _started(pool: Pool) -> list[Start]:
    return list(pool.decide().starts)


def test_what_fits_no_single_device_waits_whatever_the_sum() -> None:
    pool = _pool(device("n/0"), device("n/1"))
    pool.submit(queued("large", 30))
    assert _places(pool) == {}


def test_large_devices_stay_free_for_large_jobs() -> None:
    pool = _pool(device("n/0", 80), device("n/1", 24))
    pool.submit(queued("small", 5, queued_at=1.0), queued("large", 70, queued_at=2.0))
    assert _places(pool) == {"small": ["n/1"], "large": ["n/0"]}


def test_the_tightest_hole_is_filled() -> None:
    pool = _pool(device("n/0", held_bytes=4 * GIB), device("n/1", held_bytes=10 * GIB), device("n/2"))
    pool.submit(queued("job", 12))
    assert _places(pool) == {"job": ["n/1"]}


def test_among_equal_holes_the_fuller_node_then_the_id() -> None:
    pool = _pool(device("m/0"), device("m/1"), device("n/0"), device("n/1", held_bytes=20 * GIB))
    pool.submit(queued("x", 10, queued_at=1.0), queued("y", 24, queued_at=2.0), queued("z", 24, queued_at=3.0))
    assert _places(pool) == {"x": ["n/0"], "y": ["m/0"], "z": ["m/1"]}


def test_a_node_with_the_base_model_is_preferred_among_equals_only() -> None:
    pool = _pool(device("m/0"), device("n/0"), device("o/0", held_bytes=12 * GIB))
    pool.submit(queued("warm", 20, queued_at=1.0, warm_nodes=frozenset({"n", "o"})))
    pool.submit(queued("tight", 10, queued_at=2.0, warm_nodes=frozenset({"m"})))
    assert _places(pool) == {"warm": ["n/0"], "tight": ["o/0"]}


def test_exclusive_takes_all_of_an_empty_device() -> None:
    pool = _pool(device("n/0"), device("n/1", held_bytes=GIB))
    pool.submit(queued("alone", 5, exclusive=True, queued_at=1.0), queued("next", 5, exclusive=True, queued_at=2.0))
    (start,) = _started(pool)
    assert (start.job_id, start.holds[0].device_id, start.holds[0].bytes) == ("alone", "n/0", 24 * GIB)
    assert start.rate_micros == 1_000_000


def test_device_types_are_a_wall() -> None:
    pool = _pool(device("n/0", 24), device("n/1", 80))
    pool.submit(queued("job", 5, device_types=frozenset({"g80"})))
    assert _places(pool) == {"job": ["n/1"]}


def test_a_device_that_is_not_schedulable_takes_nothing_new() -> None:
    pool = _pool(device("n/0", schedulable=False))
    pool.submit(queued("job", 5))
    assert _places(pool) == {}


def test_a_gang_starts_whole_on_one_node_or_not_at_all() -> None:
    pool = _pool(device("m/0"), device("n/0"), device("n/1"))
    pool.submit(queued("pair", 20, replicas=2, queued_at=1.0), queued("second", 20, replicas=2, queued_at=2.0))
    assert _places(pool) == {"pair": ["n/0", "n/1"]}


def test_a_gang_may_be_spread_only_where_it_says_so() -> None:
    pool = _pool(device("m/0"), device("n/0"), device("n/1"))
    pool.submit(queued("three", 20, replicas=3, same_node=False))
    assert _places(pool) == {"three": ["n/0", "n/1", "m/0"]}


def test_a_gang_keeps_to_one_device_type() -> None:
    pool = _pool(device("n/0", 24), device("n/1", 48))
    pool.submit(queued("pair", 20, replicas=2, same_node=False))
    assert _places(pool) == {}


def test_a_gang_takes_the_tightest_node() -> None:
    pool = _pool(
        *(device(f"{node}/{n}", 80, held_bytes=held * GIB) for node, held in (("m", 0), ("n", 30)) for n in "01")
    )
    pool.submit(queued("pair", 40, replicas=2))
    assert _places(pool) == {"pair": ["n/0", "n/1"]}


def test_the_first_footprint_that_fits_is_taken() -> None:
    pool = _pool(device("n/0", 24))
    ways = (footprint(30, name="as asked"), footprint(15, name="micro-batch 2"), footprint(8, name="micro-batch 1"))
    pool.submit(queued("job", footprints=ways))
    (start,) = _started(pool)
    assert (start.footprint.name, start.holds[0].bytes) == ("micro-batch 2", 15 * GIB)


def test_the_rate_is_the_price_weighted_part_of_the_device() -> None:
    pool = _pool(device("n/0", 80, weight_micros=2_000_000))
    pool.submit(queued("half", 40))
    (start,) = _started(pool)
    assert start.rate_micros == 1_000_000


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(KeyError):
        get_policy("nearest")
