"""The one loop shape: what it does with errors, with lost leadership, with waking and with threads."""

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.errors import LeaseLostError, NotFoundError, StoreUnavailableError
from orchestrator.scheduler.health import Health
from orchestrator.scheduler.loop import LONGEST_BACK_OFF_SECONDS, Loop, Runner, connect


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Work:
    """A loop over names; applying a name in `errors` raises."""

    def __init__(self, *names: str) -> None:
        self.names: list[str] = list(names)
        self.errors: dict[str, Exception] = {}
        self.applied: list[str] = []
        self.health = Health()
        self.clock = Clock()
        self.leading = True
        self.load_error: Exception | None = None

    def load(self) -> Sequence[str]:
        if self.load_error:
            raise self.load_error
        return self.names

    def apply(self, name: str) -> bool:
        if name in self.errors:
            raise self.errors[name]
        self.applied.append(name)
        return False

    def runner(self, apply: Callable[[str], bool | None] | None = None, **options: Any) -> Runner:
        on_phase = options.pop("on_phase", lambda loop, phase: None)
        loop = Loop(
            name=options.pop("name", "work"),
            interval_seconds=3600,
            load=self.load,
            decide=lambda names: names,
            apply=apply or self.apply,
            subject=lambda name: name,
            **options,
        )
        return Runner(loop, is_leading=lambda: self.leading, health=self.health, clock=self.clock, on_phase=on_phase)


@pytest.mark.parametrize("error", [StoreUnavailableError(), LeaseLostError(), NotFoundError("gone"), ValueError("bug")])
def test_one_bad_row_does_not_stop_the_others(error: Exception) -> None:
    work = Work("bad", "good")
    work.errors["bad"] = error
    work.runner().run_once()
    assert work.applied == ["good"]
    assert work.health.snapshot()["work"].errors == 1


def test_a_bad_row_is_held_back_for_longer_each_time() -> None:
    work = Work("bad")
    tries = []

    def apply(name: str) -> bool:
        tries.append(work.clock.seconds)
        raise StoreUnavailableError

    runner = work.runner(apply)
    for _ in range(400):
        runner.run_once()
        work.clock.seconds += 0.25
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[:3] == [0.5, 1.0, 2.0]
    assert max(gaps) == LONGEST_BACK_OFF_SECONDS
    assert len(tries) < 12


def test_a_success_ends_the_holding_back() -> None:
    work = Work("row")
    work.errors["row"] = StoreUnavailableError()
    runner = work.runner()
    runner.run_once()
    work.errors.clear()
    runner.run_once()
    assert work.applied == []
    work.clock.seconds += 0.5
    runner.run_once()
    runner.run_once()
    assert work.applied == ["row", "row"]


def test_only_programming_errors_are_counted_as_such() -> None:
    work = Work("a", "b")
    work.errors = {"a": StoreUnavailableError(), "b": KeyError("b")}
    work.runner().run_once()
    assert work.health.programming_errors == 1
    assert work.health.snapshot()["work"].last_error == "KeyError"


def test_an_error_in_loading_is_not_fatal() -> None:
    work = Work("a")
    work.load_error = RuntimeError("broken")
    runner = work.runner()
    assert runner.run_once() is False
    work.load_error = None
    runner.run_once()
    assert work.applied == ["a"]


def test_nothing_is_applied_after_leadership_is_lost() -> None:
    work = Work("a", "b")

    def apply(name: str) -> bool:
        work.leading = False
        return work.apply(name)

    work.runner(apply).run_once()
    assert work.applied == ["a"]


def test_a_loop_that_is_not_led_runs_without_leadership() -> None:
    work = Work("a")
    work.leading = False
    work.runner(led=False).run_once()
    assert work.applied == ["a"]


def test_phases_are_told_in_order() -> None:
    work = Work("a")
    phases: list[str] = []
    work.runner(on_phase=lambda loop, phase: phases.append(phase)).run_once()
    assert phases == ["loaded", "decided", "applied", "passed"]


def test_a_pass_with_more_waiting_is_repeated_at_once() -> None:
    work = Work("a")
    stop = threading.Event()

    def apply(name: str) -> bool:
        work.apply(name)
        if len(work.applied) == 5:
            stop.set()
        return len(work.applied) < 5

    runner = work.runner(apply)
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    while not stop.wait(5):
        raise AssertionError("the loop did not repeat by itself")
    runner.wake()
    thread.join(5)
    assert work.applied == ["a"] * 5


def test_waking_starts_a_pass_before_the_interval_is_over() -> None:
    work = Work()
    passed = threading.Semaphore(0)
    stop = threading.Event()
    runner = work.runner(on_phase=lambda loop, phase: passed.release() if phase == "passed" else None)
    wake = connect([runner])
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        for _ in range(3):
            assert passed.acquire(timeout=5)
            wake(["work"])
    finally:
        stop.set()
        wake("*")
        thread.join(5)
    assert not thread.is_alive()


def test_useful_passes_wake_the_next_loop() -> None:
    first, second = Work("a"), Work()
    passed = threading.Semaphore(0)
    stop = threading.Event()
    runner = first.runner(wakes=("second",))
    follower = second.runner(
        name="second", on_phase=lambda loop, phase: passed.release() if phase == "passed" else None
    )
    wake = connect([runner, follower])
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        assert passed.acquire(timeout=5)
        runner.run_once()
        assert passed.acquire(timeout=5)
    finally:
        stop.set()
        wake("*")
        thread.join(5)


def test_two_threads_never_work_on_one_subject() -> None:
    work = Work("a")
    entered, leave, stop = threading.Semaphore(0), threading.Event(), threading.Event()
    passes = threading.Semaphore(0)

    def apply(name: str) -> bool:
        entered.release()
        assert leave.wait(5)
        return work.apply(name)

    runner = work.runner(
        apply, parallel=2, on_phase=lambda loop, phase: passes.release() if phase == "passed" else None
    )
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        assert entered.acquire(timeout=5)
        assert passes.acquire(timeout=5)
        runner.wake()
        assert passes.acquire(timeout=5), "a pass does not wait for what is under way"
        assert not entered.acquire(blocking=False), "the same subject was taken twice"
    finally:
        stop.set()
        leave.set()
        runner.wake()
        thread.join(5)
    assert work.applied == ["a"]


def test_the_health_file_is_whole_and_says_how_the_loops_are(tmp_path: Path) -> None:
    work = Work("a")
    work.errors["a"] = ZeroDivisionError()
    work.runner().run_once()
    path = tmp_path / "health.json"
    work.health.write(path, leading=True)
    body = json.loads(path.read_text())
    assert body["leading"] is True
    assert body["programming_errors"] == 1
    assert body["loops"]["work"]["errors"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["health.json"]
