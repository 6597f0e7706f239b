"""Many callers at the same moment."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

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
