"""Who may give orders, when silence ends an attempt, and what a process that does not stop gets."""

import signal
from typing import Any, cast

import pytest

from orchestrator.domain.errors import LeaseLostError
from orchestrator.domain.protocol import StopReason
from orchestrator.runtime.child import Child
from orchestrator.runtime.lease import TERM_SECONDS, Ending, Lease

PAUSE = StopReason(reason="paused", save=True)
CANCEL = StopReason(reason="cancelled", save=False)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordedChild:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.signals: list[signal.Signals] = []

    def send(self, order: dict[str, Any]) -> None:
        self.orders.append(order)

    def flush(self) -> None:
        pass

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)


def test_the_highest_generation_wins() -> None:
    lease = Lease(generation=2, seconds=4)
    lease.accept(2)
    lease.accept(5)
    for stale in (1, 2, 4):
        with pytest.raises(LeaseLostError):
            lease.accept(stale)
    lease.accept(5)


def test_silence_longer_than_the_lease_ends_it() -> None:
    clock = Clock()
    lease = Lease(generation=1, seconds=4, clock=clock)
    clock.now += 3.9
    assert not lease.is_over
    lease.renew()
    clock.now += 3.9
    assert not lease.is_over
    clock.now += 0.2
    assert lease.is_over
    assert lease.silent_seconds == pytest.approx(4.1)


def ending() -> tuple[Ending, RecordedChild, Clock]:
    child, clock = RecordedChild(), Clock()
    return Ending(cast(Child, child), clock=clock), child, clock


def test_nothing_is_signalled_before_anybody_asked() -> None:
    end, child, clock = ending()
    clock.now += 1e6
    assert not end.enforce()
    assert not end.is_asked
    assert child.signals == []


def test_after_the_grace_comes_sigterm_then_sigkill() -> None:
    end, child, clock = ending()
    end.ask(PAUSE, 10)
    assert child.orders == [{"stop": {"reason": "paused", "save": True}}]
    clock.now += 9.9
    assert not end.enforce()
    clock.now += 0.2
    assert end.enforce(), "the first signal is news"
    assert not end.enforce()
    assert set(child.signals) == {signal.SIGTERM}
    clock.now += TERM_SECONDS
    end.enforce()
    assert child.signals[-1] is signal.SIGKILL


def test_a_second_order_is_passed_on_and_only_shortens_the_grace() -> None:
    end, child, clock = ending()
    end.ask(PAUSE, 10)
    end.ask(CANCEL, 60)
    assert [order["stop"]["reason"] for order in child.orders] == ["paused", "cancelled"]
    clock.now += 10
    assert end.enforce()
    end, child, clock = ending()
    end.ask(PAUSE, 60)
    end.ask(CANCEL, 0)
    assert end.enforce()


def test_killing_soon_means_at_the_next_look() -> None:
    end, child, _ = ending()
    end.ask(PAUSE, 60)
    end.kill_soon()
    end.enforce()
    assert child.signals == [signal.SIGKILL]
