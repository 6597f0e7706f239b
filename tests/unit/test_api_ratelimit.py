"""The bucket of each key: what a minute holds, how it fills, and that keys do not share one."""

import pytest

from api import ratelimit
from api.ratelimit import RateLimit


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def _app(*_: object) -> None:
    raise AssertionError("only the buckets are asked")


def make_limit(clock: Clock, per_minute: int) -> RateLimit:
    return RateLimit(_app, per_minute, clock)


def test_a_minute_of_requests_may_come_at_once_and_then_evenly() -> None:
    clock = Clock()
    limit = make_limit(clock, 3)
    assert [limit.take("a") for _ in range(4)] == [2, 1, 0, -1]
    clock.seconds = 19.0
    assert limit.take("a") == pytest.approx(-0.05), "a refused request takes nothing"
    clock.seconds = 21.0
    assert limit.take("a") == pytest.approx(0.05)
    clock.seconds = 1000.0
    assert limit.take("a") == 2, "it never holds more than a minute's"


def test_keys_have_buckets_of_their_own() -> None:
    limit = make_limit(Clock(), 1)
    assert [limit.take("a"), limit.take("b"), limit.take("a")] == [0, 0, -1]


def test_only_full_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratelimit, "MAX_BUCKETS", 2)
    clock = Clock()
    limit = make_limit(clock, 1)
    limit.take("old")
    clock.seconds = 59.0
    limit.take("young")
    clock.seconds = 61.0
    limit.take("new")
    assert limit.take("young") < 0
    assert limit.take("old") == 0
