"""Many callers at the same moment."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import text

from orchestrator.store.session import Store, WriteTx

T = TypeVar("T")


def run_together(actions: Sequence[Callable[[], T]], *, timeout_seconds: float = 60) -> list[T | BaseException]:
    """Start each action in a thread of its own, all released at once; their results or errors in the same order."""
    barrier = threading.Barrier(len(actions))
    results: dict[int, T | BaseException] = {}

    def run(index: int, action: Callable[[], T]) -> None:
        barrier.wait()
        try:
            results[index] = action()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_seconds)
        assert not thread.is_alive(), "a caller hangs"
    return [results[index] for index in range(len(actions))]


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
    """For what gives no signal of its own: look until it is so."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.002)


def run_overlapping(
    store: Store, first: Callable[[WriteTx], object], second: Callable[[WriteTx], object]
) -> tuple[object, object]:
    """Run `second` while `first` has done its work and not committed, so that it has to wait for it; their results."""
    done = threading.Event()

    def run_first() -> object:
        with store.write() as tx:
            result = first(tx)
            done.set()
            wait_until(lambda: has_waiting_writer(store))
        return result

    def run_second() -> object:
        done.wait()
        with store.write() as tx:
            return second(tx)

    results = run_together([run_first, run_second])
    return results[0], results[1]


def has_waiting_writer(store: Store) -> bool:
    """Whether some transaction waits for another one, on either engine."""
    if store._group is not None:
        return len(store._group._threads._waiting) > 0
    with store.read() as tx:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(tx.scalar(text(waiting)))
