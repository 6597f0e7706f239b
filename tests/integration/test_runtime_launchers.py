"""What every launcher promises, held by each: in this process, and on a real Ray cluster."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, LeaseLostError, TunepoolError
from orchestrator.domain.ids import new_attempt_id
from orchestrator.domain.protocol import AttemptSpec, Entry, Progress, Pulled, Stopped, StopReason
from orchestrator.runtime.launcher import Launch, Launcher, PullRequest
from orchestrator.runtime.local import LocalLauncher
from orchestrator.runtime.processes import find_attempt_processes
from orchestrator.runtime.validation import ValidationLimits
from tests.support.attempt_specs import (
    MIB,
    SIGNATURE,
    STUB_COMMAND,
    make_grant,
    make_spec,
    make_validation,
    progress,
    texts_of,
    wait_for,
)
from tests.support.clusters import cpu_device, run_cluster

NODE = "node-a"
PAUSE = StopReason(reason="paused", save=True)
LIMITS = ValidationLimits(time_seconds=5, memory_bytes=300 * MIB)


@pytest.fixture(scope="module", params=["local", "ray"])
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    if request.param == "local":
        local = LocalLauncher(
            stop_grace_seconds=2.0,
            device=cpu_device(NODE),
            worker_command=STUB_COMMAND,
            validation_limits=LIMITS,
        )
        yield local
        local.close()
    else:
        with run_cluster([cpu_device(NODE)]) as cluster:
            yield cluster.launcher(validation_limits=LIMITS)


class Run:
    """One launched attempt and what was pulled from it."""

    def __init__(self, launcher: Launcher, spec: AttemptSpec, *, generation: int = 1) -> None:
        self.launcher = launcher
        self.spec = spec
        self.generation = generation
        self.entries: list[Entry] = []
        self.launch()

    def launch(self) -> None:
        self.launcher.launch(Launch(spec=self.spec, node_name=NODE, lease_generation=self.generation))

    def ask(self, **changes: Any) -> Pulled | Exception | None:
        request = {"lease_generation": self.generation, "cursor": len(self.entries), **changes}
        asked = PullRequest(attempt_id=self.spec.attempt_id, **request)
        return self.launcher.pull([asked], timeout_seconds=10).get(self.spec.attempt_id)

    def pull(self) -> Pulled:
        pulled = self.ask()
        assert isinstance(pulled, Pulled)
        self.entries += pulled.entries
        return pulled

    def pull_to_the_end(self) -> Pulled:
        return wait_for(lambda: not ((pulled := self.pull()).alive or pulled.more) and pulled)

    def stop(self, stop: StopReason = PAUSE, *, grace_seconds: float = 15) -> None:
        self.launcher.stop(
            self.spec.attempt_id, lease_generation=self.generation, stop=stop, grace_seconds=grace_seconds
        )

    def confirm_gone(self) -> bool:
        return self.launcher.confirm_gone(self.spec.attempt_id, node_name=NODE)

    def wait_for_text(self, part: str) -> str:
        return wait_for(lambda: self.pull() and next((t for t in texts_of(self.entries) if part in t), None))

    @property
    def kinds(self) -> list[str]:
        return [entry.report.kind for entry in self.entries]


@pytest.fixture
def start(launcher: Launcher, tmp_path: Path) -> Iterator[Any]:
    """Launch a stub that runs these steps; afterwards it is released and proved gone."""
    runs: list[Run] = []

    def start(*steps: dict[str, Any], generation: int = 1, **spec: Any) -> Run:
        runs.append(Run(launcher, make_spec(tmp_path, *steps, **spec), generation=generation))
        return runs[-1]

    yield start
    for run in runs:
        launcher.release(run.spec.attempt_id)
        assert run.confirm_gone()
    assert list(tmp_path.glob("attempt-*")) == []


def test_the_devices_of_the_pool_are_listed(launcher: Launcher) -> None:
    assert tuple(launcher.list_devices()) == (cpu_device(NODE),)


def test_an_attempt_is_followed_from_launch_to_outcome(start: Any) -> None:
    run = start({"print": "hello"}, *[progress(step) for step in range(1, 6)], {"wait": "stop"})
    wait_for(lambda: run.pull() and run.kinds.count("progress") == 5)
    run.stop()
    pulled = run.pull_to_the_end()
    assert (pulled.alive, pulled.exit_code) == (False, 0)
    assert [entry.seq for entry in run.entries] == list(range(1, len(run.entries) + 1))
    assert [e.report.step for e in run.entries if isinstance(e.report, Progress)] == [1, 2, 3, 4, 5]
    assert [e.report for e in run.entries if isinstance(e.report, Stopped)] == [Stopped(reason="paused", step=7)]


def test_a_long_journal_comes_in_bounded_answers(start: Any) -> None:
    run = start({"print_many": [2300, "row"]}, {"exit": 0})
    run.pull_to_the_end()
    sizes = []
    run.entries.clear()
    while True:
        before = len(run.entries)
        more = run.pull().more
        sizes.append(len(run.entries) - before)
        if not more:
            break
    assert sizes[:4] == [500] * 4
    assert texts_of(run.entries, "stdout") == ["row"] * 2300
    repeated = run.ask(cursor=2298)
    assert isinstance(repeated, Pulled)
    assert list(repeated.entries) == run.entries[2298:]


def test_several_attempts_are_pulled_at_once(start: Any, launcher: Launcher) -> None:
    first, second = start({"print": "first"}, {"wait": "stop"}), start({"print": "second"}, {"wait": "stop"})
    first.wait_for_text("first")
    second.wait_for_text("second")
    unknown = new_attempt_id()
    ids = [first.spec.attempt_id, second.spec.attempt_id, unknown]
    asked = [PullRequest(attempt_id=attempt_id, lease_generation=1, cursor=0) for attempt_id in ids]
    answers = launcher.pull(asked, timeout_seconds=10)
    assert answers.keys() == set(ids)
    assert isinstance(answers[unknown], AttemptGoneError)
    for attempt_id, text in zip(ids, ("first", "second"), strict=False):
        pulled = answers[attempt_id]
        assert isinstance(pulled, Pulled)
        assert texts_of(pulled.entries, "stdout") == [text]


def test_launching_a_running_attempt_again_does_nothing(start: Any) -> None:
    run = start(progress(1), {"wait": "stop"})
    wait_for(lambda: run.pull() and "progress" in run.kinds)
    run.launch()
    run.stop()
    run.pull_to_the_end()
    assert run.kinds.count("phase") == 1, "one process reported its start"


def test_a_stale_generation_is_refused_and_changes_nothing(start: Any, launcher: Launcher) -> None:
    run = start({"wait": "stop"}, generation=4)
    attempt_id = run.spec.attempt_id
    assert isinstance(run.ask(lease_generation=3), LeaseLostError)
    with pytest.raises(LeaseLostError):
        launcher.stop(attempt_id, lease_generation=3, stop=PAUSE, grace_seconds=0)
    with pytest.raises(LeaseLostError):
        launcher.launch(Launch(spec=run.spec, node_name=NODE, lease_generation=3))
    assert isinstance(run.ask(lease_generation=5), Pulled), "a newer one takes over"
    assert isinstance(run.ask(lease_generation=4), LeaseLostError)
    run.generation = 5
    assert run.pull().alive


def test_an_unknown_attempt_is_gone(launcher: Launcher) -> None:
    attempt_id = new_attempt_id()
    asked = PullRequest(attempt_id=attempt_id, lease_generation=1, cursor=0)
    assert isinstance(launcher.pull([asked], timeout_seconds=5)[attempt_id], AttemptGoneError)
    with pytest.raises(AttemptGoneError):
        launcher.stop(attempt_id, lease_generation=1, stop=PAUSE, grace_seconds=1)
    launcher.release(attempt_id)
    assert launcher.confirm_gone(attempt_id, node_name=NODE)


def test_nothing_is_pulled_for_nobody(launcher: Launcher) -> None:
    assert launcher.pull([], timeout_seconds=1) == {}


def test_a_hung_process_is_killed_after_its_grace(start: Any) -> None:
    run = start({"ignore": "stop"})
    wait_for(lambda: run.pull() and run.kinds.count("phase") == 2)
    run.stop(grace_seconds=0.2)
    assert run.pull_to_the_end().exit_code == -signal.SIGKILL
    assert "stopped" not in run.kinds


def test_a_process_killed_from_outside_is_seen_with_its_signal(start: Any) -> None:
    run = start({"wait": "stop"})
    (process,) = wait_for(lambda: find_attempt_processes(run.spec.attempt_id))
    os.kill(process.pid, signal.SIGKILL)
    pulled = run.pull_to_the_end()
    assert (pulled.alive, pulled.exit_code) == (False, -signal.SIGKILL)


def test_an_attempt_that_nobody_pulls_ends_by_itself(start: Any) -> None:
    run = start({"wait": "stop"}, lease_seconds=4)
    wait_for(lambda: find_attempt_processes(run.spec.attempt_id))
    wait_for(lambda: not find_attempt_processes(run.spec.attempt_id), seconds=15)
    run.pull_to_the_end()
    assert [e.report for e in run.entries if isinstance(e.report, Stopped)] == [Stopped(reason="lease_expired", step=7)]


def test_a_pull_renews_the_lease(start: Any) -> None:
    run = start({"wait": "stop"}, lease_seconds=2)
    deadline = time.monotonic() + 2 * run.spec.lease_seconds
    wait_for(lambda: run.pull().alive and time.monotonic() > deadline)
    assert run.pull().alive


def test_a_fresh_grant_reaches_the_process(start: Any) -> None:
    run = start({"wait": "grant"})
    assert isinstance(run.ask(grant=make_grant("jobs/j/attempts/0001-fresh/")), Pulled)
    assert run.wait_for_text("granted") == "granted jobs/j/attempts/0001-fresh/"


def test_release_ends_everything_and_can_be_repeated(start: Any, launcher: Launcher, tmp_path: Path) -> None:
    run = start({"escape": str(tmp_path / "pid")}, {"ignore": "stop"})
    wait_for(lambda: run.pull() and run.kinds.count("phase") == 2)
    launcher.release(run.spec.attempt_id)
    assert not find_attempt_processes(run.spec.attempt_id)
    assert not Path(run.spec.work_dir).exists()
    launcher.release(run.spec.attempt_id)
    assert isinstance(run.ask(), AttemptGoneError)


def test_an_attempt_that_was_proved_gone_never_starts_again(start: Any) -> None:
    run = start({"wait": "stop"})
    assert run.confirm_gone()
    assert not find_attempt_processes(run.spec.attempt_id)
    with pytest.raises(ClusterUnavailableError, match="ended on this node"):
        run.launch()
    assert isinstance(run.ask(), AttemptGoneError)


def test_a_node_that_is_not_there_proves_and_starts_nothing(launcher: Launcher, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"exit": 0})
    with pytest.raises(ClusterUnavailableError, match="node-z"):
        launcher.launch(Launch(spec=spec, node_name="node-z", lease_generation=1))
    with pytest.raises(ClusterUnavailableError, match="node-z"):
        launcher.confirm_gone(spec.attempt_id, node_name="node-z")
    assert list(tmp_path.iterdir()) == []


def test_a_launch_that_fails_on_the_node_leaves_nothing_and_may_be_repeated(
    start: Any, launcher: Launcher, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, {"wait": "stop"})
    (tmp_path / "file").write_text("")
    broken = spec.model_copy(update={"work_dir": str(tmp_path / "file" / "work")})
    with pytest.raises(ClusterUnavailableError, match="could not be started"):
        launcher.launch(Launch(spec=broken, node_name=NODE, lease_generation=1))
    run = Run(launcher, spec)
    assert run.pull().alive
    launcher.release(spec.attempt_id)


def test_files_are_checked_in_a_process_of_the_worker(launcher: Launcher) -> None:
    result = launcher.validate(make_validation("rows-12"))
    assert result.training is not None
    assert (result.training.rows, result.training.total_tokens) == (12, 120)
    assert result.problems == ()


def test_a_node_is_measured_by_a_process_of_the_worker(launcher: Launcher) -> None:
    found = launcher.measure(NODE)
    assert (found.half_flops_per_second, found.measured) == (2e11, True)
    with pytest.raises(ClusterUnavailableError):
        launcher.measure("node-b")


@pytest.mark.parametrize(
    ("behaviour", "code", "words"),
    [
        ("crash", "validation_crashed", r"ended with 3: cannot read http://\S+\?\[redacted\]"),
        ("hang", "validation_timeout", "longer than 5 s"),
        ("eat", "validation_out_of_memory", "more than 300 MiB"),
    ],
)
def test_a_check_that_goes_wrong_is_an_error_with_a_reason(
    launcher: Launcher, behaviour: str, code: str, words: str
) -> None:
    with pytest.raises(TunepoolError, match=words) as caught:
        launcher.validate(make_validation(behaviour))
    assert caught.value.code == code
    assert SIGNATURE not in caught.value.message
